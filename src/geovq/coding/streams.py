"""Codes to bytes and back by constriction's range coder (Bamler 2022), given integer frequencies.

Frequencies come less 1 each: constriction gives every code at least one of its 2^24 parts and shares the others by the
numbers that it is given, which leaves whole numbers that add up to what is left exactly as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import constriction
import numpy as np

from geovq.errors import DataError

_MODELS = constriction.stream.model.Categorical(perfect=False)
_WORD = 4


def packed(codes: np.ndarray, frequencies: Sequence[np.ndarray]) -> bytes:
    """One stream of codes (B, L), position after position, given the (B, K) frequencies of each."""
    encoder = constriction.stream.queue.RangeEncoder()
    for place, table in enumerate(frequencies):
        if table.shape[1] > 1:  # a single code takes no bits, and constriction knows no such model
            encoder.encode(np.ascontiguousarray(codes[:, place], dtype=np.int32), _MODELS, np.ascontiguousarray(table))
    return _bytes(encoder).rstrip(b"\0")


def packed_each(codes: np.ndarray, frequencies: Sequence[np.ndarray]) -> list[bytes]:
    """A stream for each image, none longer than it must be."""
    told = [place for place, table in enumerate(frequencies) if table.shape[1] > 1]
    streams = []
    for row in range(len(codes)):
        tables = [np.ascontiguousarray(frequencies[place][row : row + 1]) for place in told]
        streams.append(_shortest(codes[row, told], tables))
    return streams


class Unpacking:
    """Reads streams position after position: one of all images, or one of each."""

    def __init__(self, streams: Sequence[bytes]) -> None:
        self.decoders = [_decoder(stream) for stream in streams]

    def take(self, frequencies: np.ndarray) -> np.ndarray:
        """The next code (B,) of all images by its (B, K) frequencies; DataError for bytes written with others."""
        tables = np.ascontiguousarray(frequencies)
        if tables.shape[1] == 1:
            return np.zeros(len(tables), dtype=np.int64)
        try:
            if len(self.decoders) == 1:
                return np.asarray(self.decoders[0].decode(_MODELS, tables), dtype=np.int64)
            found = [each.decode(_MODELS, tables[row : row + 1]) for row, each in enumerate(self.decoders)]
        except AssertionError as error:  # what constriction raises
            raise DataError("bits that stand for no code") from error
        return np.concatenate(found).astype(np.int64)


def _bytes(encoder: Any) -> bytes:
    return encoder.get_compressed().astype(">u4").tobytes()


def _decoder(stream: bytes) -> Any:
    padded = stream + bytes(-len(stream) % _WORD)  # zeros that were left out at the end
    return constriction.stream.queue.RangeDecoder(np.frombuffer(padded, dtype=">u4").astype(np.uint32))


def _shortest(codes: np.ndarray, tables: Sequence[np.ndarray]) -> bytes:
    """The fewest bytes that are read as these codes: of the numbers in the coder's last interval the roundest.

    Only the last eight bytes can be spared, the two words of its state.
    """
    encoder = constriction.stream.queue.RangeEncoder()
    for code, table in zip(codes, tables, strict=True):
        encoder.encode(np.array([code], dtype=np.int32), _MODELS, table)
    whole = _bytes(encoder)
    number = int.from_bytes(whole, "big")
    for length in range(max(0, len(whole) - 2 * _WORD), len(whole)):
        cut = number >> 8 * (len(whole) - length)
        for candidate in (cut, cut + 1):
            if candidate < 1 << 8 * length:
                stream = candidate.to_bytes(length, "big")
                if _reads_as(stream, codes, tables):
                    return stream
    return whole


def _reads_as(stream: bytes, codes: np.ndarray, tables: Sequence[np.ndarray]) -> bool:
    decoder = _decoder(stream)
    try:
        # The last code goes wrong first where bytes are missing, but none may.
        return all(int(decoder.decode(_MODELS, table)[0]) == code for code, table in zip(codes, tables, strict=True))
    except AssertionError:
        return False
