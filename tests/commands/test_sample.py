from collections.abc import Callable
from typing import Any

import pytest

from geovq.commands.sample import SampleSettings, check_label, check_top_k, sheet_size
from geovq.data import DataInfo
from geovq.errors import ConfigError
from geovq.pipeline.config import parse
from geovq.pipeline.memory import check_fits


@pytest.mark.parametrize(
    ("label", "n_classes", "dropout", "message"),
    [(10, 10, 0.1, "-1 to 9"), (0, 0, 0.0, "-1 or null"), (-1, 10, 0.0, "never without a class")],
)
def test_labels_the_prior_does_not_know(label: int, n_classes: int, dropout: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_label(label, n_classes, dropout)


@pytest.mark.parametrize(("label", "n_classes"), [(None, 10), (9, 10), (-1, 10), (None, 0), (-1, 0)])
def test_labels_it_knows(label: int | None, n_classes: int) -> None:
    check_label(label, n_classes, class_dropout=0.1)


def test_no_more_codes_are_kept_than_there_are() -> None:
    check_top_k(16, 16)
    check_top_k(None, 16)
    with pytest.raises(ConfigError, match=r"top_k=17: the run has quantizer\.K=16 codes"):
        check_top_k(17, 16)


def test_a_sheet_that_cannot_fit_into_memory_is_refused(compose: Callable[..., Any]) -> None:
    info = DataInfo("digits", 1437, 360, 1, 8, 8, 10, tuple("0123456789"), "")
    check_fits(sheet_size(parse(SampleSettings, compose("n=8", name="sample")), info, 10))
    with pytest.raises(ConfigError, match=r"^n=1000000000: at least"):
        check_fits(sheet_size(parse(SampleSettings, compose("n=1000000000", name="sample")), info, 10))
