import numpy as np
import pytest

from geovq.coding.fixed_point import TOTAL
from geovq.coding.format import joined, split
from geovq.coding.priors import bits_of
from geovq.coding.streams import Unpacking, packed, packed_each
from geovq.coding.tables import TablePrior, shared_by
from geovq.errors import DataError


def drawn(sizes: list[int], n: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Codes (n, L) and their frequencies, most of them far from uniform."""
    rng = np.random.default_rng(0)
    counts = [[rng.integers(0, 10 ** rng.integers(1, 7), size) + 1 for _ in range(n)] for size in sizes]
    tables = [np.array([shared_by(row) for row in rows]).astype(np.float32) for rows in counts]
    codes = [[rng.choice(len(row), p=(row + 1) / (row + 1).sum(dtype=float)) for row in t] for t in tables]
    return np.array(codes).T, tables


def test_constriction_takes_frequencies_as_they_are() -> None:
    import constriction

    counts = shared_by(np.array([0, 5, 1, 10**6, 0, 77]))
    assert counts.sum() + 6 == TOTAL
    model = constriction.stream.model.Categorical(perfect=False)
    for code, count in enumerate(counts):
        encoder = constriction.stream.queue.RangeEncoder()
        encoder.encode(np.array([code], dtype=np.int32), model, counts[None].astype(np.float32))
        _, (lower, width) = encoder.pos()
        parts = 2**40  # of the coder's 2^64, less rounding
        assert (round(width / parts), round(lower / parts)) == (count + 1, (counts[:code] + 1).sum())


@pytest.mark.parametrize("n", [1, 50])
def test_streams_are_read_as_they_were_written_and_no_longer_than_their_bits(n: int) -> None:
    codes, tables = drawn([9, 2, 300, 1, 5, 40], n)
    bits = sum(bits_of(table, codes[:, place]) for place, table in enumerate(tables))
    one, each = packed(codes, tables), packed_each(codes, tables)
    assert 8 * len(one) <= bits.sum() + 64
    assert all(8 * len(stream) <= length + 16 for stream, length in zip(each, bits, strict=True))
    for streams in ([one], each):
        unpacking = Unpacking(streams)
        assert (np.column_stack([unpacking.take(table) for table in tables]) == codes).all()


def test_lengths_of_streams_up_to_thousands_of_bytes() -> None:
    streams = [bytes(length) for length in (0, 1, 127, 128, 20_000)]
    assert split(joined(streams), 5) == streams
    for wrong in (joined(streams)[:-1], joined(streams) + b"x", b"\xff" * 9, b""):
        with pytest.raises(DataError):
            split(wrong, 5)


def test_tables_are_counted_by_position_or_by_slot() -> None:
    codes = np.array([[0, 1], [0, 1], [0, 2]])
    by_position, by_slot, uniform = TablePrior((3, 3), codes), TablePrior((3, 3), codes, [0, 0]), TablePrior((3, 3))
    assert (by_slot.tables[0] == by_slot.tables[1]).all()
    assert np.allclose((by_position.tables[0] + 1) / TOTAL, np.array([7, 1, 1]) / 9, atol=1e-6)
    assert np.allclose((by_slot.tables[0] + 1) / TOTAL, np.array([7, 5, 3]) / 15, atol=1e-6)
    assert np.allclose((uniform.tables[0] + 1) / TOTAL, 1 / 3, atol=1e-6)
    assert len({prior.digest for prior in (by_position, by_slot, uniform)}) == 3
