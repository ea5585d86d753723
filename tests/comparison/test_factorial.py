from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from geovq.comparison.factorial import Factorial, Grid, analyse, factorial_csv, factorial_section, find_grids
from geovq.comparison.methods import group_seeds
from geovq.comparison.runs import ComparedRun
from geovq.tracking import RunRecord

IMAGES = [20.0, 22.0, 27.0]
GAINS = {
    ("euclidean", "own"): 0.0,
    ("euclidean", "search"): 3.0,
    ("whitened", "own"): 1.0,
    ("whitened", "search"): 3.5,
    ("pullback", "own"): 1.25,
    ("pullback", "search"): 4.0,
}


def run(
    quantizer: str, assign: str, gain: float = 0.0, seed: int = 0, bits: float = 144.0, vae: str = "v", **params: Any
) -> ComparedRun:
    """One whose every test image has ``gain`` dB more than those of ``IMAGES``."""
    values = {"quantizer.name": quantizer, "quantizer.K": 512, "assign.name": assign, "finetune.name": "none"}
    values |= {"seed": seed, "vae.seed": seed} | params
    psnr = torch.tensor(IMAGES).double() + gain
    record = RunRecord(
        "-".join(map(str, values.values())),
        f"{quantizer}-{assign}-s{seed}",
        "FINISHED",
        {"data": "digits"},
        {key: str(value) for key, value in values.items()},
        {"psnr": float(psnr.mean()), "rate_nominal_bits_per_image": bits},
        "sqlite:///",
        None,  # type: ignore[arg-type]
    )
    manifest = {"inputs": {"latents": f"{vae}{seed}"}}
    report = SimpleNamespace(tensors=lambda name: {"psnr": psnr}, manifest=manifest, key="k")
    return ComparedRun(record, report, None)  # type: ignore[arg-type]


def grids(*runs: ComparedRun) -> list[Grid]:
    return find_grids(group_seeds(runs)[0])


def full(gains: Mapping[tuple[str, str], float] = GAINS, **settings: Any) -> list[ComparedRun]:
    return [run(*cell, gain, **settings) for cell, gain in gains.items()]


def mean(factorial: Factorial, cell: tuple[str, str], over: tuple[str, str]) -> float:
    return factorial.gains[cell, over].value.mean


def test_shares_and_both_orders_are_those_computed_by_hand() -> None:
    [grid] = grids(*full())
    assert (grid.codebooks, grid.assignments) == (("euclidean", "whitened", "pullback"), ("own", "search"))
    assert (grid.title, grid.missing) == ("K=512, 144 bits per image", [])
    factorial = analyse(grid, 50, 0)
    assert mean(factorial, ("whitened", "search"), ("euclidean", "search")) == 0.5
    assert mean(factorial, ("pullback", "own"), ("whitened", "own")) == 0.25
    assert mean(factorial, ("whitened", "search"), ("whitened", "own")) == 2.5
    assert list(factorial.steps) == [("euclidean", "own"), ("whitened", "own")]
    assert factorial.steps["euclidean", "own"]["total"] == (("pullback", "search"), ("euclidean", "own"))
    found = [[mean(factorial, *pair) for pair in steps.values()] for steps in factorial.steps.values()]
    assert found == [[4.0, 1.25, 2.75, 3.0, 1.0], [3.0, 0.25, 2.75, 2.5, 0.5]]
    assert factorial_section(factorial).footnotes == []
    # euclidean over whitened is whitened over euclidean with the other sign, and is not repeated
    assert (("euclidean", "own"), ("whitened", "own")) not in factorial.gains


def test_seeds_are_averaged_and_paired() -> None:
    runs = [run(*cell, gain + seed * (gain + 1), seed) for cell, gain in GAINS.items() for seed in range(3)]
    factorial = analyse(grids(*runs)[0], 400, 0)
    cell = factorial.psnr["whitened", "own"]  # 23 + 1 + 0, 2, 4
    assert (cell.mean, cell.error) == (26.0, pytest.approx(2 / 3**0.5))
    gain = factorial.gains[("whitened", "own"), ("euclidean", "own")]  # 1, 2, 3 in every image
    assert gain.n_seeds == 3
    half = 4.302653 / 3**0.5  # t over three seeds, since all images agree
    assert (gain.value.mean, gain.value.low, gain.value.high) == pytest.approx((2.0, 2 - half, 2 + half))
    printed = factorial_section(factorial).text()
    assert "26.00 ± 1.15" in printed
    assert "± its standard error over seeds" in printed


def test_a_grid_is_of_one_setting_of_everything_else_and_titled_by_it() -> None:
    runs = [
        *full(**{"vae.free_bits": "rate"}),
        *full(**{"vae.free_bits": 0.0}),
        run("pullback", "search", **{"vae.free_bits": 0.0, "finetune.name": "both", "finetune.steps": 1000}),
    ]
    assert [grid.title for grid in grids(*runs)] == [
        "K=512, 144 bits per image, finetune.name=none, vae.free_bits=rate",
        "K=512, 144 bits per image, finetune.name=none, vae.free_bits=0.0",
    ]


@pytest.mark.parametrize(
    "runs",
    [
        [run("euclidean", "own")],
        [run("euclidean", "own"), run("whitened", "own"), run("pullback", "own")],
        [run("euclidean", "own"), run("euclidean", "search"), run("whitened", "metric")],
        [run("euclidean", a) for a in ("own", "search")] + [run("whitened", a, bits=99.0) for a in ("own", "search")],
        [
            *(run("euclidean", "own"), run("euclidean", "search", **{"finetune.name": "both"})),
            *(run("whitened", "own"), run("whitened", "search", **{"finetune.name": "decoder"})),
        ],
    ],
)
def test_without_two_codebooks_and_two_assignments_at_one_rate_there_is_no_grid(runs: list[ComparedRun]) -> None:
    assert grids(*runs) == []


def test_cells_without_a_run_are_dashes_and_named() -> None:
    [grid] = grids(*[each for each in full() if each.record.name != "pullback-search-s0"], run("random", "metric"))
    assert (grid.codebooks, grid.missing) == (("euclidean", "whitened"), [])  # one cell alone is no line of a grid
    runs = full({cell: gain for cell, gain in GAINS.items() if cell != ("pullback", "own")})
    runs += [run(quantizer, "metric", 2.0) for quantizer in ("euclidean", "pullback")]
    factorial = analyse(grids(*runs)[0], 50, 0)
    assert factorial.grid.assignments == ("own", "metric", "search")
    assert factorial.grid.missing == [("whitened", "metric"), ("pullback", "own")]
    assert "without a run: whitened with metric; pullback with own." in factorial_section(factorial).text()
    known = [pair in factorial.gains for pair in factorial.steps["euclidean", "own"].values()]
    assert known == [True, False, False, True, True]


def test_variants_of_a_rule_or_of_a_codebook_are_told_apart_where_there_are_several() -> None:
    runs = [*full(**{"assign.n_rounds": 5}), *full(**{"assign.n_rounds": 15})]
    [grid] = grids(*[each for each in runs if "own" not in each.record.name])
    assert grid.assignments == ("search, assign.n_rounds=5", "search, assign.n_rounds=15")
    assert "Assignment over search, assign.n_rounds=5:" in factorial_section(analyse(grid, 20, 0)).text()


def test_an_autoencoder_of_its_own_is_noted_and_its_gain_not_taken_apart() -> None:
    joint = [run("vqvae", "own", 5.0, vae="joint"), run("vqvae", "search", 6.0, vae="joint")]
    factorial = analyse(grids(*joint, *full())[0], 50, 0)
    assert factorial.grid.codebooks == ("euclidean", "whitened", "vqvae", "pullback")
    assert {steps["total"][0] for steps in factorial.steps.values()} == {("pullback", "search")}
    assert list(factorial.codebook_notes) == ["vqvae"]
    assert "vqvae has an autoencoder of its own" in factorial_section(factorial).footnotes[0]
    alone = analyse(grids(*joint, run("pullback", "own"), run("pullback", "search"))[0], 50, 0)
    assert (list(alone.shares), alone.steps) == (["vqvae", ""], {})  # no two codebooks on one autoencoder


def test_the_layouts_hold_the_same_numbers() -> None:
    factorial = analyse(grids(*full())[0], 50, 0)
    printed, page = factorial_section(factorial).text(), factorial_section(factorial).markdown()
    for text in ("codebook over euclidean", "codebook over whitened", "assignment over own", "pullback with search"):
        assert text in printed
        assert text in page
    [line] = [line for line in printed.splitlines() if line.startswith("  then codebook")]
    assert re.findall(r"\S+ \[.*?\]", line) == ["+1.00 [+1.00, +1.00]", "+0.50 [+0.50, +0.50]"]
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {4}
    rows = list(csv.DictReader(factorial_csv([factorial]).splitlines()))
    assert len(rows) == 6 + 2 * (2 + 1) + 3 + 2 * 5
    [step] = [r for r in rows if r["quantity"] == "then_codebook" and r["gain_over"] == "euclidean with own"]
    assert (step["codebook"], step["over_codebook"], step["assignment"]) == ("pullback", "euclidean", "search")
    assert float(step["value_db"]) == float(step["low_db"]) == 1.0


def test_the_command_writes_the_table_and_takes_an_old_one_away(
    record: Callable[..., str], compare: Callable[..., Path], capsys: Any
) -> None:
    for (quantizer, assign), gain in GAINS.items():
        record(quantizer, 16, psnr=[20.0 + gain] * 6, params={"assign.name": assign})
    folder = compare("query=''", "baseline='euclidean, assign.name=own, K=16'")
    printed = capsys.readouterr().out
    for text in (printed, (folder / "table.md").read_text(), (folder / "comparison.html").read_text()):
        assert "Codebook × assignment: K=16, 64 bits per image" in text
        assert "+2.75 [+2.75, +2.75]" in text
    assert "gain_over" in (folder / "factorial.csv").read_text()
    compare("query=\"params.`assign.name` = 'own'\"", "baseline=euclidean")
    assert not (folder / "factorial.csv").exists()
    assert "Codebook × assignment" not in capsys.readouterr().out
