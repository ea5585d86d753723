import gzip
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geovq.data import mnist
from geovq.data.mnist import parse_idx, read_bytes
from geovq.errors import DataError


def encode(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=3, max_side=5)))
def test_round_trip(array: np.ndarray) -> None:
    np.testing.assert_array_equal(parse_idx(encode(array), array.ndim, "file"), array)


@given(st.integers(0, 9 + 3 * 16 - 1))
def test_every_truncation_is_refused(kept: int) -> None:
    content = encode(np.arange(48, dtype=np.uint8).reshape(3, 4, 4))
    with pytest.raises(DataError, match=rf"some/file: .*{kept}"):
        parse_idx(content[:kept], 3, "some/file")


def test_truncation_tells_both_sizes() -> None:
    content = encode(np.zeros((3, 4, 4), dtype=np.uint8))
    with pytest.raises(DataError, match="raw/images: truncated: expected 64 bytes, found 60"):
        parse_idx(content[:-4], 3, "raw/images")
    with pytest.raises(DataError, match="too long: expected 64 bytes, found 65"):
        parse_idx(content + b"x", 3, "raw/images")


def test_wrong_magic_number() -> None:
    labels = encode(np.zeros(300, dtype=np.uint8))
    with pytest.raises(DataError, match="magic number 2051, found 2049"):
        parse_idx(labels, 3, "raw/images")


def test_gzipped_file_and_damaged_one(tmp_path) -> None:
    packed = gzip.compress(bytes(range(200)) * 50)
    whole, cut = tmp_path / "a.gz", tmp_path / "b.gz"
    whole.write_bytes(packed)
    cut.write_bytes(packed[:-20])
    assert read_bytes(whole) == bytes(range(200)) * 50
    with pytest.raises(DataError, match=r"b\.gz: cannot be read"):
        read_bytes(cut)


def test_a_gzip_has_a_largest_size(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(mnist, "LARGEST_FILE", 1000)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(5000)))
    with pytest.raises(DataError, match=r"bomb\.gz: unpacks to more than 1,000 bytes"):
        read_bytes(tmp_path / "bomb.gz")
