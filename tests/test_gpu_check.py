"""The check of a GPU: its comparisons on every device there is, its timings and its bookkeeping on a CPU."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import _gpu_agreement
import gpu_check
from _gpu_problem import SIZES, Problem, Row
from _gpu_table import markdown

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES, scope="module")
def problem(request: pytest.FixtureRequest) -> Problem:
    return Problem(request.param, SIZES["small"])


@pytest.mark.parametrize("compare", _gpu_agreement.COMPARISONS, ids=lambda each: each.__name__)
def test_a_device_gives_what_the_cpu_gives(problem: Problem, compare: Callable[[Problem], Iterator[Row]]) -> None:
    rows = list(compare(problem))
    assert rows
    assert [each for each in rows if "failed" in each] == []


def test_a_difference_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    from geovq.geometry import metric

    def wrong(*arguments: Any, device: Any = None, **named: Any) -> torch.Tensor:
        found = measured(*arguments, **named)
        return found if device is None else 1.01 * found

    measured = metric.token_metrics
    monkeypatch.setattr(metric, "token_metrics", wrong)
    rows = list(_gpu_agreement.metric_tensors(Problem("cpu", SIZES["small"])))
    assert [("failed" in each) for each in rows] == [True, True, False]


def test_timings(capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(gpu_check.timings("cpu", "small"))
    assert [each["name"] for each in rows if "failed" in each] == []
    names = ["VAE step", "metric tensors", "neighbours", "assignment", "search", "prior step", "sampling"]
    assert [each["name"] for each in rows] == [*names, "PSNR and SSIM"]
    assert all(each["ours"] > 0 and each["bare"] > 0 for each in rows)
    assert "100.00% of neighbours are the same" in rows[2]["remark"]


def raises(device: str, budget: str) -> Iterator[Row]:
    yield Row(name="before", work=f"{device}, {budget}", unit="ms", ours=2.0, bare=1.0, share=0.5)
    raise ValueError("what went wrong")


def hangs(device: str, budget: str) -> Iterator[Row]:
    import time

    time.sleep(600)
    yield Row(name="never")


def ends(device: str, budget: str) -> Iterator[Row]:
    yield Row(name="after")


def test_parts_that_end_badly_leave_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    folders = [str(Path(path).parent) for path in (__file__, gpu_check.__file__)]
    script.write_text(
        f"import sys; sys.path[:0] = {folders!r}\n"
        "import gpu_check, test_gpu_check as these\n"
        "gpu_check.PARTS = {name: (0, getattr(these, name)) for name in ('raises', 'hangs', 'ends')}\n"
        "sys.exit(gpu_check.main())\n"
    )
    monkeypatch.setattr(gpu_check, "__file__", str(script))
    monkeypatch.setattr(gpu_check, "PARTS", {"raises": (100, raises), "hangs": (1, hangs), "ends": (100, ends)})
    output = tmp_path / "out"
    assert gpu_check.main(["--device", "cpu", "--budget", "small", "--output", str(output)]) == 1
    rows = json.loads((output / "gpu_check.json").read_text())["rows"]
    names = [(each["part"], each["name"]) for each in rows]
    whole = "whole part"
    assert names == [("raises", "before"), ("raises", whole), ("hangs", whole), ("ends", "after"), ("ends", whole)]
    assert rows[0]["work"] == "cpu, small"
    assert rows[1]["failed"] == "exit status 1: ValueError: what went wrong"
    assert rows[2]["failed"] == "overran its 1 s; what it had found by then stands here"
    assert "failed" not in rows[4]
    assert "**Failed:**\n\n- raises, whole part: exit status 1" in (output / "gpu_check.md").read_text()


def test_a_row_that_raises_leaves_the_others() -> None:
    def broken_row(problem: Problem) -> Iterator[Row]:
        yield Row(name="half")
        raise MemoryError("out of memory")

    rows = list(
        gpu_check.each_by_itself(
            [broken_row, lambda problem: iter([Row(name=problem.device.type)])], Problem("cpu", SIZES["small"])
        )
    )
    assert [each["name"] for each in rows] == ["half", "broken row", "cpu"]
    assert rows[1]["failed"] == "MemoryError: out of memory"


def test_without_a_device_one_line_and_a_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main(["--output", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "no CUDA device" in said.err
    assert said.out == ""
    assert not (tmp_path / "out").exists()
    assert gpu_check.main(["--device", "cpu", "--parts", "digits,nothing"]) == 1
    assert "--parts: nothing is none of tests, agreement" in capsys.readouterr().err


def test_the_budgets_end_before_eight_minutes() -> None:
    *others, last = gpu_check.PARTS.values()
    assert sum(seconds for seconds, _ in others) + 60 <= last[0] <= 480


def test_the_table_is_a_section_of_the_page() -> None:
    machine = {"device": "a GPU", "torch": "2", "cuda": "13", "cores": "16", "date": "2026-11-28", "commit": "abc"}
    rows: list[Row] = [
        Row(part="timings", name="search", work="4 tokens", unit="ms/image", ours=0.25, bare=0.2, share=0.8),
        Row(part="digits_on_cpu", name="src/train.py data=digits", unit="s", ours=50.2, remark="vae 20 s"),
        Row(part="agreement", name="decoder", work="relative", difference=2e-6, limit=1e-4),
        Row(
            part="agreement", name="PSNR", work="relative", difference=2e-3, limit=1e-4, failed="0.002 is above 0.0001"
        ),
        Row(part="tests", name="tests marked gpu", unit="tests passed", ours=9.0, remark="9 tests"),
    ]
    page = markdown(machine, rows, 321.4, "full")
    assert "| search | 4 tokens | 0.25 ms/image | 0.2 ms/image | 0.80 |  |" in page
    assert "| `src/train.py data=digits` | CPU | 50 | vae 20 s |" in page
    assert "1 of 2 comparisons within their limits" in page
    assert page.index("| PSNR |") < page.index("| decoder |")
    assert "- agreement, PSNR: 0.002 is above 0.0001" in page
    tables = re.findall(r"(?:^\|.*\|\n)+", page, re.MULTILINE)
    assert all(len({line.count("|") for line in table.splitlines()}) == 1 for table in tables)
