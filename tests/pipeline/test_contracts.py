"""What classes of someone else's give is looked at where it is first used, and the class is named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from geovq.data import DataInfo, RawImages
from geovq.data.split import check_images
from geovq.errors import DataError, InputError
from geovq.models.codec import flat_codec
from geovq.pipeline.contracts import (
    check_codebook,
    check_codes,
    check_latents,
    check_losses,
    check_sampled,
    mean_bits,
)

CODEC = flat_codec(torch.zeros(4, 2), (2, 2))


class Mine:
    """Stands for any class; ``given`` is what its methods give."""

    def __init__(self, given: Any = None) -> None:
        self.given = given

    def bits_per_image(self, ids: Any) -> Any:
        return self.given


def images(change: str = "") -> RawImages:
    train, labels = torch.zeros(6, 1, 3, 3, dtype=torch.uint8), torch.tensor([0, 1, 0, 1, 0, 1])
    train = {"float": train.float(), "channels last": train.permute(0, 2, 3, 1), "list": [1]}.get(change, train)  # type: ignore[dict-item]
    labels = {"missing": None, "real": labels.float(), "from 1": labels + 1}.get(change, labels)
    return RawImages(train, labels, torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.tensor([0, 1]))


@pytest.mark.parametrize("change", ["float", "channels last", "list", "missing", "real", "from 1"])
def test_images_and_labels_are_those_of_the_facts(change: str) -> None:
    info = DataInfo("mine", 6, 2, 1, 3, 3, 2, ("a", "b"), "")
    check_images(Mine(), images(), info)
    with pytest.raises(DataError, match=r"test_contracts\.Mine: load gives train "):
        check_images(Mine(), images(change), info)


@pytest.mark.parametrize(
    "codes",
    [
        [0, 1, 2, 3],
        np.array(3),
        np.array([0, 1, 2]),
        np.array([0, 1, 2, 4]),
        np.array([0, -1, 2, 3]),
        np.array([0.0, 1, 2, 3]),
    ],
)
def test_every_token_has_a_code_of_the_codebook(codes: np.ndarray) -> None:
    check_codes(Mine(), np.array([0, 1, 2, 3]), 4, CODEC)
    with pytest.raises(InputError, match=r"test_contracts\.Mine: predict gives "):
        check_codes(Mine(), codes, 4, CODEC)


@pytest.mark.parametrize("change", [{"cost_history_": [1.0]}, {"cluster_centers_": np.zeros((3, 2))}, {"rows": np.nan}])
def test_a_fit_leaves_as_many_codewords_as_were_asked_for(change: dict[str, Any]) -> None:
    centers = np.full((4, 2), change.get("rows", 0.0))
    right = {"cost_history_": np.zeros(1), "cluster_centers_": centers, "tables_": (centers,)}
    with pytest.raises(InputError, match=r"SimpleNamespace: "):
        check_codebook(SimpleNamespace(**(right | change)), 4, 2)


@pytest.mark.parametrize(
    "bits", [torch.tensor(3.0), torch.ones(2), torch.tensor([1.0, -1.0, 1.0]), torch.full((3,), torch.nan)]
)
def test_code_lengths_are_one_number_from_zero_for_each_image(bits: torch.Tensor) -> None:
    ids = torch.zeros(3, 5)
    assert mean_bits(Mine(torch.tensor([1.0, 2.0, 3.0])), ids) == 2.0  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"test_contracts\.Mine: bits_per_image gives "):
        mean_bits(Mine(bits), ids)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"loss gives \(\) for 3 sequences"):
        check_losses(Mine(), torch.tensor(1.0), 3)


@pytest.mark.parametrize(
    "codes", [np.zeros((3, 2, 2)), torch.zeros(3, 4).long(), torch.full((3, 2, 2), 4), torch.zeros(3, 2, 2)]
)
def test_samples_are_codes(codes: Any) -> None:
    assert check_sampled(Mine(), torch.ones(3, 2, 2).long(), 3, CODEC).sum() == 12
    with pytest.raises(InputError, match=r"test_contracts\.Mine: sample gives "):
        check_sampled(Mine(), codes, 3, CODEC)


def test_latents_and_codewords_that_are_not_finite_are_told_as_such() -> None:
    latents = torch.zeros(5, 2, 1, 1)
    check_latents(Mine(), latents, "test")
    latents[3, 1] = torch.nan
    with pytest.raises(
        InputError, match=r"test_contracts\.Mine: encode gives NaN or infinity for 1 test images, first 3"
    ):
        check_latents(Mine(), latents, "test")
    tables = (np.array([[0.0, 1.0], [np.inf, 1.0]]),)
    fitted = SimpleNamespace(cost_history_=np.zeros(1), tables_=tables)
    with pytest.raises(InputError, match="fit gives NaN or infinity in 1 codewords, first 1"):
        check_codebook(fitted, 2, 2)
    with pytest.raises(InputError, match=r"codewords have 2 dimensions; vae\.dim=3"):
        check_codebook(fitted, 2, 3)
