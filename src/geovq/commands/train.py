"""``src/train.py``: run the stages, record them, print the report."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from geovq.configuration.config import Config, validate
from geovq.tracking import CONFIG_FILE

if TYPE_CHECKING:
    from geovq.data import DataInfo, ImageSource
    from geovq.pipeline.runner import Runner, StageRun
    from geovq.tracking import NullRun, Run


def train(composed: DictConfig) -> float | None:
    """Validate, build what is missing, record. Returns the validation PSNR in dB, for Hydra's sweepers."""
    begun = time.perf_counter()
    from geovq.commands.closing import as_tag, close, words_given
    from geovq.data import summary

    config, words = read_config(composed), words_given()
    source, info = open_data(config)
    for line in summary(info, source.location, config.data.validation, config.data.limit):
        print(f"data: {line}", file=sys.stderr)

    from geovq.pipeline.memory import check_memory
    from geovq.pipeline.runner import Runner, to_standard_error, wanted
    from geovq.pipeline.stage import Context
    from geovq.tracking.multirun import finished_job, parent_run_id

    context = Context(config, source, info)
    config = context.config  # with the precision that "auto" stands for
    runner = Runner(context)
    there = {stage.name: runner.store.find(stage.folder, runner.keys[stage.name]) for stage in wanted(config)}
    check_memory(config, info, [name for name, artifact in there.items() if artifact is None])
    if config.stale != "rebuild" and all(there.values()):
        done = finished_job(config.tracking, config.root, tags(config, runner) | as_tag(words))
        if done is not None:
            print(f"{done.title}: this job of the sweep is finished and recorded", file=sys.stderr)
            return done.metrics.get("psnr_validation")
    with recording(runner, as_tag(words), parent_id=parent_run_id()) as run:

        def log(stage: str, metrics: dict[str, float], step: int) -> None:
            run.log_metrics({f"{stage}/{name}": value for name, value in metrics.items()}, step)

        results = Runner(replace(context, log=log), to_standard_error).run()
        psnr = print_report(config, results)  # first: it is done, whatever becomes of the recording
        print(f"all stages in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
        page = close(config, results, config.tracking.run_name or run_name(config), run.run_id, words)
        record_results(run, results, page)
    return psnr


def read_config(composed: DictConfig) -> Config:
    """Typed configuration of a composed one."""
    return validate(OmegaConf.to_container(composed, resolve=True))


def open_data(config: Config, told: bool = False) -> tuple[ImageSource, DataInfo]:
    """The images' source and facts, checked against the configuration; nothing is decoded yet.

    Remarks on what may not be meant are left out where a person was ``told`` them before.
    """
    from geovq.configuration.checks import check, remarks
    from geovq.configuration.section import blamed
    from geovq.data import open_images
    from geovq.data.streams import is_streamed

    source = open_images(config.data)
    with blamed(source, "info"):
        info = source.info()
    check(config, info, source.location, is_streamed(source))
    for remark in () if told else remarks(config, info):
        print(f"remark: {remark}", file=sys.stderr)
    return source, info


def run_name(config: Config) -> str:
    """Name of the run in the tracking pages."""
    parts = [config.data.name, config.quantizer.name, f"K{config.quantizer.K}"]
    if config.assign.name != "own":
        parts.append(config.assign.name)
    if config.finetune.name != "none":
        parts.append(f"tuned_{config.finetune.name}")
    return "-".join([*parts, f"s{config.seed}"])


def tags(config: Config, runner: Runner) -> dict[str, str]:
    """What a person filters runs by, and the keys of all artifacts."""
    return {
        # Only runs with a report are found by run=latest.
        "geovq.kind": "train" if config.stages == "all" or "report" in config.stages else "stages",
        **{group: getattr(config, group).name for group in ("data", "vae", "quantizer", "assign", "finetune")},
        "K": str(config.quantizer.K),
        "seed": str(config.seed),
        **{f"artifact.{stage}": key for stage, key in runner.keys.items()},
    }


@contextmanager
def recording(
    runner: Runner, labels: dict[str, str] | None = None, suffix: str = "", parent_id: str | None = None
) -> Iterator[Run | NullRun]:
    """An open run with tags (``labels`` among them), and the resolved configuration: flat for comparison, and whole."""
    from geovq.tracking import start_run

    config = runner.context.config
    all_tags = tags(config, runner) | (labels or {})
    with start_run(config.tracking, config.root, run_name(config) + suffix, all_tags, parent_id) as run:
        values = config.model_dump(mode="json")
        run.log_params(values)
        run.log_dict(values, CONFIG_FILE)
        yield run


def record_results(run: Run | NullRun, results: dict[str, StageRun], page: Path | None) -> None:
    """Curves of stages that were only read, final metrics under one set of names, figures, the page."""
    if page is not None:
        run.log_file(page)
    for name, result in results.items():
        run.log_metrics({f"{name}/seconds": result.seconds})
        if result.cached and result.artifact.has("history.json"):
            for entry in result.artifact.json("history"):
                values = {f"{name}/{k}": v for k, v in entry.items() if k != "step"}
                run.log_metrics(values, int(entry["step"]))
        for file in result.artifact.manifest["files"]:
            if file.endswith(".png"):
                run.log_file(result.artifact.path(file), "figures")
    if "report" in results:
        report = results["report"].artifact
        run.log_metrics(report.json("metrics"))
        for metric, reason in report.json("omitted").items():
            run.set_tags({f"omitted.{metric}": reason})


def print_report(config: Config, results: dict[str, StageRun], whole: bool = False) -> float | None:
    """The table on standard output: the scores that have a group, or the ``whole`` report."""
    from geovq.commands.table import report_table, short_table
    from geovq.evaluation.evaluator import Score

    if "report" not in results:
        return None
    report = results["report"].artifact
    metrics = report.json("metrics")
    title = f"{run_name(config)}, {metrics['n_test_images']:.0f} test images"
    added = [Score(**each) for each in report.json("added_scores")]
    table = report_table if whole else short_table
    print(table(title, metrics, report.json("omitted"), added, is_joint=config.is_joint))
    return float(metrics["psnr_validation"])  # what a sweeper chooses by has to spare the test images
