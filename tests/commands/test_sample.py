from collections.abc import Callable
from typing import Any

import pytest

from geovq.commands.sample import SampleSettings, check_drawn, check_top_k, class_of, sheet_size
from geovq.configuration.config import validate
from geovq.configuration.parse import parse
from geovq.data import DataInfo
from geovq.errors import ConfigError
from geovq.pipeline.memory import check_fits

DIGITS = tuple(str(digit) for digit in range(10))
FROM_ONE = ("1", "2", "10")
GARMENTS = ("T-shirt/top", "Bag", "Ankle boot")


@pytest.mark.parametrize(
    ("label", "names", "number"),
    [
        (None, DIGITS, None),
        (9, DIGITS, 9),
        (2, FROM_ONE, 1),
        ("10", FROM_ONE, 2),
        ("Bag", GARMENTS, 1),
        (2, GARMENTS, 2),
        ("2", GARMENTS, 2),
        (-1, GARMENTS, -1),
        (-1, (), -1),
        (None, (), None),
        (-1, ("-1", "1"), 0),
    ],
)
def test_a_label_is_the_name_of_a_class_and_else_its_place_where_no_name_is_a_number(
    label: int | str | None, names: tuple[str, ...], number: int | None
) -> None:
    assert class_of(label, names, class_dropout=0.1) == number


@pytest.mark.parametrize(
    ("label", "names", "dropout", "message"),
    [
        (10, DIGITS, 0.1, "label=10: allowed is 0, 1, .*, 9, -1"),
        (0, FROM_ONE, 0.1, r"label=0: allowed is 1, 2, 10, -1 \(without class\) or null"),
        (3, GARMENTS, 0.1, "label=3: allowed is T-shirt/top, Bag"),
        ("bag", GARMENTS, 0.1, "label=bag: "),
        (-2, GARMENTS, 0.1, "label=-2: "),
        (0, (), 0.0, "-1 or null"),
        (-1, DIGITS, 0.0, "never without a class"),
    ],
)
def test_labels_the_prior_does_not_know(label: int | str, names: tuple[str, ...], dropout: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        class_of(label, names, dropout)


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


def test_temperatures_and_guidances_are_crossed_and_what_is_not_asked_for_is_left_out(compose: Any) -> None:
    plain = parse(SampleSettings, compose("temperature=[0.5,1]", name="sample")).draws
    assert plain == [
        ("temperature 0.5", "codes_temperature_0.5", {"temperature": 0.5}),
        ("temperature 1", "codes_temperature_1", {"temperature": 1.0}),
    ]
    swept = parse(SampleSettings, compose("guidance=[1,3]", "steps=4", name="sample")).draws
    assert [drawing for _, _, drawing in swept] == [
        {"temperature": 1.0, "steps": 4},
        {"temperature": 1.0, "steps": 4, "guidance": 3.0},
    ]
    assert swept[1][:2] == ("temperature 1, guidance 3", "codes_temperature_1_guidance_3")


@pytest.mark.parametrize(
    ("words", "of_run", "label", "message"),
    [
        (["guidance=2"], ["transformer.class_dropout=0"], None, "^guidance=2 needs a prior that was trained with"),
        (["guidance=2"], [], -1, "^guidance=2: label=-1 withholds the class; leave it at 1$"),
        (["steps=3"], ["prior=pixelcnn"], None, "^steps=3: prior=pixelcnn draws code after code; leave it at null$"),
        (
            ["guidance=2", "images=photo.png", "complete=left"],
            [],
            -1,
            "^guidance=2: images of a person have no class; give label=, or leave it at 1$",
        ),
        (["images=photo.png"], [], -1, "^images: are there to be completed; say which part of them is kept"),
        (["complete=left"], ["vae=flat"], None, "^complete=left: vae=flat has one token per image"),
    ],
)
def test_what_the_prior_cannot_follow_is_refused(
    compose: Any, words: list[str], of_run: list[str], label: int | None, message: str
) -> None:
    settings = parse(SampleSettings, compose(*words, name="sample"))
    with pytest.raises(ConfigError, match=message):
        check_drawn(settings, validate(compose(*of_run)), DIGITS, label)


@pytest.mark.parametrize("label", [True, False, 1.0])
def test_a_label_that_is_neither_a_name_nor_a_whole_number(compose: Any, label: object) -> None:
    values = compose(name="sample") | {"label": label}
    with pytest.raises(ConfigError, match=f"label={label}: give a class's name"):
        parse(SampleSettings, values)
