"""Which scores have a column: a score of samples is not shown without its floors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from geovq.comparison.runs import ComparedRun
from geovq.comparison.summary import column_of, shown_metrics


def test_scores_of_samples_come_with_their_floors_once() -> None:
    run: Any = SimpleNamespace(metric=lambda name: None)
    shown = shown_metrics(["psnr", "psnr_validation", "fid", "fid_training"], [run])
    assert shown == ["psnr", "fid", "fid_training", "fid_reconstructions"]
    assert column_of("fid_training").title == "FID (our network) of training images"


def test_short_names_stand_for_those_of_the_data_sets_classifier() -> None:
    record: Any = SimpleNamespace(tags={"data": "digits"})
    run = ComparedRun(record, report=None, fingerprint=None)  # type: ignore[arg-type]
    for name, expected in {
        "fid": "fid_digits_cnn",
        "prior_fid_training": "prior_fid_digits_cnn_training",
        "fid_reconstructions_continuous": "fid_digits_cnn_reconstructions_continuous",
        "perceptual_continuous": "perceptual_digits_cnn_continuous",
        "is_inception": "is_inception",
        "fid_inception_training": "fid_inception_training",
    }.items():
        assert run.metric_name(name) == expected
