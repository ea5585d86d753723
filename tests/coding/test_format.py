"""The bytes of a file, and what becomes of damaged ones."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geovq.coding.file import decode, encode, images_per_block
from geovq.coding.format import KINDS, MAGIC, Header, names_to_bytes, read_body, read_header
from geovq.coding.integer_prior import IntegerPrior
from geovq.coding.tables import TablePrior
from geovq.errors import DataError
from untrained_priors import codes_of, made

HEADER = Header(
    True, False, True, "autoregressive", 3, 480, 640, 70_000, 64, 16, "0123456789abcdef" * 2, "a1" * 8, "b2" * 8,
    "c3" * 8, b"digest!!",
)  # fmt: skip
N = 150


@pytest.fixture(scope="module")
def prior() -> IntegerPrior:
    return IntegerPrior(made())


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    return codes_of(made(), N).numpy()


def written(prior: IntegerPrior, codes: np.ndarray, per_image: bool, with_classes: bool, **how: int) -> bytes:
    coded = encode(prior, codes, per_image=per_image, with_classes=with_classes, **how)
    header = replace(
        HEADER, per_image=per_image, with_classes=with_classes, with_names=True, n_images=len(codes),
        block_images=images_per_block(prior, per_image), n_codes=codes.shape[1], digest=prior.digest,
    )  # fmt: skip
    names = names_to_bytes([f"photo {index}.png" for index in range(len(codes))])
    return header.to_bytes() + names + b"".join(block.to_bytes() for block in coded.blocks)


def read(prior: IntegerPrior, data: bytes, **how: int) -> np.ndarray:
    header = read_header(data, "x.gvq")
    _, blocks = read_body(data, header, "x.gvq")
    return decode(prior, header, blocks, "x.gvq", **how)[0]


def test_the_header_is_as_documented_byte_by_byte() -> None:
    page = (Path(__file__).parents[2] / "docs" / "codec.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (\d+) \| `(\w+)` \|", page, re.MULTILINE)
    data, values, end = HEADER.to_bytes(), vars(HEADER), 0
    told = {"magic": MAGIC, "version": 1, "flags": 1 + 4, "kind": KINDS.index("autoregressive")}
    for offset, size, field in ((int(offset), int(size), field) for offset, size, field in rows):
        assert offset == end, field
        end, found, value = offset + size, data[offset : offset + size], told.get(field, values.get(field))
        if isinstance(value, str):
            value = bytes.fromhex(value)
        if field != "checksum":
            assert (int.from_bytes(found, "big") if isinstance(value, int) else found) == value, field
    assert end == len(data) == Header.n_bytes
    assert read_header(data, "x") == HEADER
    without = replace(HEADER, prior="")
    assert read_header(without.to_bytes(), "x") == without


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("with_classes", [False, True])
def test_codes_come_back_however_they_are_computed(
    prior: IntegerPrior, codes: np.ndarray, per_image: bool, with_classes: bool
) -> None:
    data = written(prior, codes, per_image, with_classes)
    for threads, batch_size in ((1, 7), (2, 64), (2, 500)):
        how = {"threads": threads, "batch_size": batch_size}
        assert (read(prior, data, **how) == codes).all()
        if not with_classes:
            assert written(prior, codes, per_image, with_classes, **how) == data
    header = read_header(data, "x")
    names, blocks = read_body(data, header, "x")
    assert names == [f"photo {index}.png" for index in range(N)]
    assert len(blocks) == (3 if per_image else 1)


@pytest.mark.parametrize("per_image", [False, True])
def test_no_damage_goes_unnoticed(prior: IntegerPrior, codes: np.ndarray, per_image: bool) -> None:
    """Of 1,000 damaged files each ends in one line; none gives images."""
    whole, chance = written(prior, codes[:40], per_image, True), random.Random(0)
    for number in range(500):
        data = bytearray(whole)
        match number % 5:
            case 0:
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            case 1:
                del data[chance.randrange(len(data)) :]
            case 2:
                data += chance.randbytes(chance.randrange(1, 40))
            case 3:
                start = chance.randrange(len(data))
                data[start : start + 8] = chance.randbytes(8)
            case 4:
                del data[(start := chance.randrange(len(data))) : start + chance.randrange(1, 9)]
        if bytes(data) == whole:
            continue
        with pytest.raises(DataError, match=r"^x\.gvq: [^\n]+$"):
            read(prior, bytes(data))


def test_what_a_header_is_refused_for() -> None:
    data = HEADER.to_bytes()
    for wrong, message in (
        (b"", "is no file of compress"),
        (b"PK\x03\x04" + data[4:], "is no file of compress"),
        (data[:40], "ends within its header, after 40 bytes"),
        (data[:4] + b"\x07" + data[5:], "format version 7, this program reads up to 1"),
        (data[:20] + b"\x01" + data[21:], "header is damaged"),
        (replace(HEADER, n_images=0).to_bytes(), "values that no file has"),
    ):
        with pytest.raises(DataError, match=message):
            read_header(wrong, "x.gvq")
    many = replace(HEADER, with_names=False, n_images=2**32 - 1, block_images=1)
    with pytest.raises(DataError, match="ends before block 1 of 4294967295"):
        read_body(many.to_bytes(), many, "x.gvq")


def test_streams_of_another_prior_are_refused(prior: IntegerPrior, codes: np.ndarray) -> None:
    """Whole files whose probabilities come out otherwise: their checksum of codes tells."""
    data = written(prior, codes, per_image=False, with_classes=False)
    with pytest.raises(DataError, match=r"block 1 (decodes to other codes|holds bits)"):
        read(TablePrior(prior.sizes), data)  # type: ignore[arg-type]
