"""The rows of ``gpu_check.py`` as a section of docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from _gpu_problem import Row


def markdown(machine: Mapping[str, str], rows: Sequence[Row], seconds: float, budget: str) -> str:
    """Speed, jobs, agreement and faults; of agreement only what is largest beside its limit, and the number of rows."""
    command = "./scripts/gpu_check.sh" + ("" if budget == "full" else f" --device cpu --budget {budget}")
    where = "{device}, {cores} CPU cores, torch {torch}, CUDA {cuda}, commit {commit}, {date}".format(**machine)
    lines = [
        "## On a GPU",
        "",
        f"    {command}",
        "",
        f"{where}; {seconds:.0f} s in all. Medians; networks untrained.",
        "",
    ]
    speed = [each for each in rows if "share" in each]
    if speed:
        lines += table(
            ("row", "work", "ours", "bare torch", "speed of ours over bare", "remark"),
            (
                (each["name"], each["work"], value(each, "ours"), value(each, "bare"), f"{each['share']:.2f}",
                 each.get("remark", ""))
                for each in speed
            ),
        )  # fmt: skip
    jobs = [each for each in rows if each["name"].startswith("src/")]
    if jobs:
        lines += table(
            ("command", "device", "seconds", "of which stages, and what came out"),
            (
                (f"`{each['name']}`", "CPU" if each["part"] == "digits_on_cpu" else machine["device"],
                 f"{each['ours']:.0f}", each.get("remark", ""))
                for each in jobs
            ),
        )  # fmt: skip
    compared = [each for each in rows if "difference" in each]
    if compared:
        right = sum("failed" not in each for each in compared)
        lines += [f"CPU against GPU: {right} of {len(compared)} comparisons within their limits. Nearest to them:", ""]
        near = sorted(
            (each for each in compared if each["limit"] > 0), key=lambda each: -each["difference"] / each["limit"]
        )
        lines += table(
            ("compared", "difference", "limit", "of what"),
            (
                (each["name"], f"{each['difference']:.2g}", f"{each['limit']:g}", each["work"])
                for each in near[:8]
            ),
        )  # fmt: skip
    lines += [f"{each['name']}: {each['remark']}.\n" for each in rows if each.get("unit") == "tests passed"]
    failed = [each for each in rows if "failed" in each]
    if failed:
        lines += ["**Failed:**", "", *(f"- {each['part']}, {each['name']}: {each['failed']}" for each in failed), ""]
    return "\n".join(lines)


def value(row: Row, side: str) -> str:
    number = float(row[side])  # type: ignore[literal-required]
    return f"{number:,.0f} {row['unit']}" if number >= 1000 else f"{number:.3g} {row['unit']}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = (head, ["---"] * len(head), *rows)
    return [*("| " + " | ".join(each) + " |" for each in cells), ""]
