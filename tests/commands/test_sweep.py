"""Every job of a sweep is validated before the first one starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir

from geovq.commands.sweep import faults_of, jobs_of
from tiny import REPOSITORY, command_here


@pytest.fixture
def hydra_ready() -> Iterator[None]:
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        yield


@pytest.mark.parametrize(
    ("params", "overrides", "expected"),
    [
        ({}, ["seed=1"], [("seed=1",)]),
        ({"quantizer.K": "8,16", "seed": 2}, [], [("quantizer.K=8", "seed=2"), ("quantizer.K=16", "seed=2")]),
        ({"quantizer.K": "8,16"}, ["quantizer.K=4"], [("quantizer.K=4",)]),
        ({}, ["seed=range(0,2)"], [("seed=0",), ("seed=1",)]),
        ({}, ["a=[1,2]", "b='x,y'"], [("a=[1,2]", "b='x,y'")]),
        ({}, ["+new=choice(1,2)"], [("+new=1",), ("+new=2",)]),
    ],
)
def test_jobs_are_the_product_of_what_is_listed(params: dict, overrides: list[str], expected: list) -> None:
    assert jobs_of(params, overrides) == expected


@pytest.mark.usefixtures("hydra_ready")
def test_each_fault_is_told_once_with_the_first_job_that_has_it() -> None:
    jobs = jobs_of({}, ["quantizer=random,gumbel,nothing", "assign=metric,own", "seed=0,1"])
    faults = faults_of(jobs, "train")
    assert list(faults.values()) == [
        ("quantizer=gumbel", "assign=metric", "seed=0"),
        ("quantizer=nothing", "assign=metric", "seed=0"),
    ]
    scores, option = faults
    assert "quantizer=gumbel are scores" in scores
    assert option.startswith("quantizer=nothing: no such option; choose conditional, euclidean")


@pytest.mark.usefixtures("hydra_ready")
def test_a_sweep_that_fits_has_no_faults() -> None:
    assert faults_of(jobs_of({}, ["quantizer=random,vqvae2", "assign=own,search"]), "train") == {}


def test_a_sweep_with_a_job_that_does_not_fit_starts_none(tmp_path: Path) -> None:
    result = command_here(tmp_path, "train", "-m", "quantizer=random,gumbel", "assign=metric")
    assert result.returncode == 1
    assert "(job: quantizer=gumbel assign=metric)\nnone of the 2 jobs was started" in result.stderr
    assert not list(tmp_path.glob("artifacts")) + list(tmp_path.glob("mlflow.db"))
