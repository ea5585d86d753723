"""How the codes of one token are shared between the slots of a structured codebook.

K always counts the codes of one token, so that log2 K bits per token are comparable whatever the structure. A codebook
of several slots (residual stages, blocks of dimensions, finite scalars) has as many codes as the product of its slots.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, prod
from typing import Any, ClassVar

from geovq.errors import InputError

JOINED_CODES = 65_536
"""Most values of a token that are still counted one by one."""


def split_sizes(K: int, parts: int) -> tuple[int, ...]:
    """Sizes of ``parts`` slots, larger ones first, whose product is at most ``K``.

    Even enough, then large, then even: no size is more than twice another; among those splits the product is the
    largest; among those with that product the sum of the sizes is the smallest. Powers of two are always met exactly.
    Without the first rule a prime K would be split into a huge size and a tiny one (509 into 127 x 4).

    That best split is looked for among all only up to ``JOINED_CODES``. A larger K that is no power of two is shared
    slot by slot, each taking the whole part of the root of what is left: one more in the smallest would pass K.

    >>> split_sizes(512, 3), split_sizes(512, 2), split_sizes(509, 2)
    ((8, 8, 8), (32, 16), (23, 22))

    Raises:
        InputError: a size would have to be 1, which is a slot that says nothing.
    """
    if parts < 1:
        raise InputError(f"{parts} parts: a token has at least 1 slot")
    if parts >= K.bit_length():
        least = 2**parts if parts < 64 else f"2**{parts}"
        raise InputError(f"K={K} cannot be split into {parts} sizes of at least 2: take K >= {least}, or fewer parts")
    if K & (K - 1) == 0:
        bits, larger = divmod(K.bit_length() - 1, parts)
        return (2 ** (bits + 1),) * larger + (2**bits,) * (parts - larger)
    if K > JOINED_CODES:
        return tuple(sorted(_by_roots(K, parts), reverse=True))
    best = max(_ascending((), K, parts), key=lambda sizes: (prod(sizes), -sum(sizes), -sizes[-1]))
    return tuple(reversed(best))


def check_split(K: int, parts: int, key: str) -> None:
    """Raise ValueError, with the key and its value, for a K that ``parts`` sizes cannot share."""
    try:
        split_sizes(K, parts)
    except InputError as error:
        raise ValueError(f"{key}={parts}: {error}") from None


class SplitCodes:
    """Of quantizers whose slots share K: what is said of their settings before any compute."""

    slots_setting: ClassVar[str | None] = None
    """The setting that says how many slots share K; None where that follows from the tokens."""

    @classmethod
    def check_settings(cls, settings: Any) -> None:
        """Refuse a K that the slots cannot share."""
        if cls.slots_setting is not None:
            check_split(settings.K, getattr(settings, cls.slots_setting), f"quantizer.{cls.slots_setting}")

    @classmethod
    def least_sizes(cls, settings: Any) -> tuple[int, ...]:
        """Codes of every slot; where these follow from the tokens, nothing is known before the fit."""
        return (1,) if cls.slots_setting is None else split_sizes(settings.K, getattr(settings, cls.slots_setting))


def _ascending(begun: tuple[int, ...], room: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Ascending sizes, each at most twice the first, with product at most ``room``; the last as large as possible."""
    least, most = (begun[-1], 2 * begun[0]) if begun else (2, room)
    if parts == 1:
        if min(room, most) >= least:
            yield (*begun, min(room, most))
        return
    for size in range(least, most + 1):
        if size**parts > room:
            return
        yield from _ascending((*begun, size), room // size, parts - 1)


def _by_roots(K: int, parts: int) -> Iterator[int]:
    """Sizes one after another: the whole part of the root of what is left, in integers, as floats round large K."""
    room = K
    for left in range(parts, 0, -1):
        low, high = 2, 2 ** ceil(room.bit_length() / left)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if middle**left <= room else (low, middle - 1)
        yield low
        room //= low
