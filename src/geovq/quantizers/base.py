"""What every quantizer offers, and the argument checks they share.

A quantizer turns ``(N, d)`` tokens into codes in ``[0, K)``. Encoding is total: every token gets a code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol, Self, runtime_checkable

import numpy as np

from geovq.errors import InputError
from geovq.geometry.checks import Array, as_array
from geovq.geometry.graph import TokenGraph

Progress = Callable[[int, float], None]
"""Called after every pass of a fit with its number and the cost reached."""


@runtime_checkable
class Quantizer(Protocol):
    """A codebook and the rule that assigns codes, with scikit-learn's habits."""

    name: ClassVar[str]
    """Word that ``make_quantizer`` knows it by."""
    rule: ClassVar[str]
    """How tokens get their codes: the same in fit, predict and training codes."""
    needs_graph: ClassVar[bool]
    """Whether ``fit`` and ``from_state`` need a ``TokenGraph``."""

    cluster_centers_: np.ndarray
    """``(K, d)`` float32 codewords."""
    inertia_: float
    """Cost of the fitted codebook over all training tokens, in the unit that the class names."""
    n_iter_: int
    """Passes made."""
    labels_: np.ndarray | None
    """``(N,)`` int32 codes of the training tokens; None where ``from_state`` cannot tell them."""
    cost_history_: np.ndarray
    """``(n_iter_ + 1,)`` float64 cost after seeding and after every pass; never rising."""

    def fit(self, tokens: Array, graph: TokenGraph | None = None, on_progress: Progress | None = None) -> Self:
        """Fit the codebook to ``(N, d)`` tokens."""
        ...

    def predict(self, tokens: Array, metrics: Array | None = None) -> np.ndarray:
        """Codes ``(N,)`` int32 of any tokens, by ``rule``."""
        ...

    def encode_training(self, tokens: Array) -> np.ndarray:
        """Codes ``(N,)`` int32 of the very tokens it was fitted to, by ``rule``."""
        ...

    def get_state(self) -> dict[str, np.ndarray]:
        """All that ``from_state`` needs, as plain arrays."""
        ...

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray], graph: TokenGraph | None = None) -> Self:
        """A fitted quantizer from its state."""
        ...


def check_n_codes(n_codes: int, n_distinct: int) -> None:
    """Raise InputError unless ``1 <= n_codes <= n_distinct``."""
    if n_codes < 1:
        raise InputError(f"n_codes is {n_codes}; a codebook needs at least 1 codeword")
    if n_codes > n_distinct:
        raise InputError(
            f"n_codes is {n_codes}, but there are only {n_distinct} distinct tokens; lower it to {n_distinct} or below"
        )


def check_at_least(value: int, least: int, name: str) -> None:
    """Raise InputError unless ``value >= least``."""
    if value < least:
        raise InputError(f"{name} is {value}; it must be at least {least}")


def check_fitted(quantizer: object) -> None:
    """Raise InputError unless the quantizer holds a codebook."""
    if not hasattr(quantizer, "cluster_centers_"):
        raise InputError(f"this {type(quantizer).__name__} is not fitted yet; call fit first")


def state_value(state: dict[str, np.ndarray], key: str, owner: str) -> np.ndarray:
    """``state[key]`` as an array.

    Raises:
        InputError: the key is missing.
    """
    if key not in state:
        raise InputError(f"the state of {owner} lacks {key!r}; fit the codebook again")
    return as_array(state[key])
