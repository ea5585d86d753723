import pytest

from geovq.commands.sample import check_label
from geovq.errors import ConfigError


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
