"""What every quantizer offers, and the scikit-learn estimator that they all extend.

A quantizer turns ``(N, d)`` tokens into codes in ``[0, K)``. Encoding is total: every token gets a code.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_array, validate_data

from geovq.errors import InputError
from geovq.geometry.checks import Array, as_array, as_points, check_metrics
from geovq.geometry.graph import TokenGraph
from geovq.models.codec import Codec, stacked_codec

Progress = Callable[[int, float], None]
"""Called after every pass of a fit with its number and the cost reached."""


class Checkpoints(Protocol):
    """Where a long fit keeps what it has reached, so that one that was interrupted goes on as it would have."""

    def restore(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Set both to what was kept; how many steps that took, 0 where nothing is kept."""

    def keep(self, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Keep both as they are after ``step`` steps, unless that was done a moment ago."""


class Training(NamedTuple):
    """What a codebook is fitted to, as ``fit`` was given it."""

    points: np.ndarray
    """``(N, d)`` float32 tokens, checked."""
    metrics: Array | None
    graph: TokenGraph | None
    on_progress: Progress | None
    checkpoints: Checkpoints | None = None


class UnfittedError(InputError, NotFittedError):
    """A quantizer was used before ``fit``; also scikit-learn's error for this."""


class CodebookEstimator(ClusterMixin, BaseEstimator, ABC):
    """The common part of all quantizers: checks, fitted attributes, and state.

    A subclass stores its settings in ``__init__`` (unchanged and unchecked, as scikit-learn wants it) and implements
    ``predict`` and ``_fit``, or in its place all of ``fit``, which then ends in ``_finish``. ``get_params``,
    ``set_params`` and ``clone`` come from scikit-learn.
    """

    rule: ClassVar[str]
    """How tokens get their codes, in words; recorded beside the codes."""
    is_joint: ClassVar[bool] = False
    """Whether it is trained together with its autoencoder."""
    needs_graph: ClassVar[bool] = False
    """Whether ``fit`` and ``from_state`` need a ``TokenGraph``."""
    needs_metrics: ClassVar[bool] = False
    """Whether ``fit`` needs the packed metric tensors of the tokens; may be a property of the settings."""
    needs_posterior: ClassVar[bool] = False
    """Whether those tensors are the precisions of the encoder's posterior instead of what the decoder is asked for."""
    sees_neighbours: ClassVar[bool] = False
    """Whether what a code decodes to depends on other codes of its image: no rule but its own can assign it then, and
    its constructor is given ``grid``."""
    takes_checkpoints: ClassVar[bool] = False
    """Whether ``fit`` trains for so long that it goes on from ``checkpoints``."""
    metric_rule_ridge: ClassVar[float | None] = None
    """The ridge with which ``rule`` is that of ``assign=metric``; None where it is another rule."""
    state_attributes: ClassVar[tuple[str, ...]] = ("cluster_centers_", "cost_history_")
    """Fitted attributes, arrays all, that the state holds beside the settings."""
    passing_settings: ClassVar[tuple[str, ...]] = ("device",)
    """Settings that matter to the fit alone and are no part of the state."""

    least_settings: ClassVar[Mapping[str, int]] = {"n_codes": 1, "max_iter": 1, "beam": 1, "n_candidates": 1}
    """The smallest values of settings, where the class has them; ``fit`` refuses less."""

    n_codes: int
    cluster_centers_: np.ndarray
    """``(K, d)`` float32 codewords of a flat codebook; structured ones have ``tables_`` alone."""
    inertia_: float
    """Cost of the fitted codebook over all training tokens, in the unit that the class names."""
    n_iter_: int
    """Passes made."""
    labels_: np.ndarray | None
    """``(N,)`` int32 codes of the training tokens; None where ``from_state`` cannot tell them."""
    cost_history_: np.ndarray
    """``(n_iter_ + 1,)`` float64 cost after seeding and after every pass; never rising."""

    def fit(
        self,
        tokens: Array,
        y: object = None,
        *,
        metrics: Array | None = None,
        graph: TokenGraph | None = None,
        on_progress: Progress | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> Self:
        """Fit the codebook to ``(N, d)`` tokens; ``y`` is ignored, and so is what the class does not need.

        Args:
            tokens: ``(N, d)``.
            y: for scikit-learn's tools.
            metrics: ``(N, d(d+1)/2)`` packed, one per token.
            graph: built from these tokens.
            on_progress: called after seeding and after every pass.
            checkpoints: of an earlier fit to the same tokens with the same settings, where the class takes them.

        Raises:
            InputError: settings out of range; NaN, or fewer distinct tokens than codewords; what the class needs is not
                given, does not fit the tokens, or (metrics) is not finite or all zero.
        """
        self._check_settings()
        points = self._check_tokens(tokens, fitting=True)
        self._finish(**{"labels_": None} | self._fit(Training(points, metrics, graph, on_progress, checkpoints)))
        if self.labels_ is None:
            self.labels_ = self.predict(tokens)
        return self

    @abstractmethod
    def _fit(self, given: Training) -> dict[str, Any]:
        """The fitted attributes, ``cost_history_`` among them; without ``labels_`` these are what ``predict`` says."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        """A class with a ``fit`` of its own needs no ``_fit``; one with neither cannot be made."""
        super().__init_subclass__(**arguments)
        if "fit" in vars(cls) and "_fit" not in vars(cls):
            cls._fit = None  # type: ignore[assignment, method-assign]

    @abstractmethod
    def predict(self, tokens: Array, metrics: Array | None = None) -> np.ndarray:
        """Codes ``(N,)`` int32, or ``(N, M)`` of structured codebooks, of any tokens, by ``rule``.

        Raises:
            InputError: not fitted, NaN, or tokens or packed ``metrics`` that do not fit the codebook.
        """

    @property
    def tables_(self) -> tuple[np.ndarray, ...]:
        """The codewords, as the one slot of a flat codebook."""
        check_fitted(self)
        return (self.cluster_centers_,)

    @property
    def code_sizes_(self) -> tuple[int, ...]:
        """The number of codewords."""
        return tuple(len(table) for table in self.tables_)

    def codec(self, grid: tuple[int, int]) -> Codec:
        """What turns grids of codes into grids of latents."""
        return stacked_codec([torch.from_numpy(table) for table in self.tables_], grid)

    def encode_training(self, tokens: Array) -> np.ndarray:
        """Codes ``(N,)`` int32 of the training tokens: the same as ``predict``."""
        return self.predict(tokens)

    def decode(self, codes: Array) -> np.ndarray:
        """Codewords ``(N, d)`` float32 of codes ``(N,)``.

        Raises:
            InputError: not fitted, another shape, or a code that does not exist.
        """
        check_fitted(self)
        values = as_array(codes)
        if values.ndim != 1:
            raise InputError(f"codes have shape {values.shape}; give (N,), one per token")
        if values.size and (values.min() < 0 or values.max() >= len(self.cluster_centers_)):
            raise InputError(
                f"codes reach from {values.min()} to {values.max()}; they lie in [0, {len(self.cluster_centers_)})"
            )
        return self.cluster_centers_[values]

    @classmethod
    def least_sizes(cls, settings: Any) -> tuple[int, ...]:
        """How many codes each slot will have at least, known from the settings; asked before any compute."""
        return (settings.K,)

    def get_state(self) -> dict[str, np.ndarray]:
        """Settings (JSON, as bytes) and fitted arrays: all that ``from_state`` needs, without pickle.

        The device is no part of it: a codebook fitted on one machine is used on another.
        """
        check_fitted(self)
        settings = {key: value for key, value in self.get_params().items() if key not in self.passing_settings}
        text = json.dumps(settings, default=lambda value: value.tolist())
        arrays = {key.rstrip("_"): getattr(self, key) for key in self.state_attributes}
        return arrays | {"settings": np.frombuffer(text.encode(), dtype=np.uint8).copy()}

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray], graph: TokenGraph | None = None) -> Self:
        """The fitted quantizer; ``labels_`` is None unless the state holds them.

        Raises:
            InputError: the state lacks a part, or belongs to another quantizer.
        """
        arrays = {key: state_value(state, key.rstrip("_"), cls.__name__) for key in cls.state_attributes}
        settings = json.loads(state_value(state, "settings", cls.__name__).tobytes())
        unknown = sorted(set(settings) - set(cls._get_param_names()))
        if unknown:
            raise InputError(f"the state holds settings that {cls.__name__} does not have: {', '.join(unknown)}")
        quantizer = cls(**settings)
        quantizer._finish(**{"labels_": None} | arrays)
        quantizer.n_features_in_ = quantizer.tables_[0].shape[1]
        return quantizer

    def _check_settings(self) -> None:
        """Raise InputError for settings that suit no tokens."""
        for name, least in self.least_settings.items():
            check_at_least(getattr(self, name, least), least, name)

    def _finish(self, **attributes: Any) -> None:
        """Set the fitted attributes, and those that follow from the history of the cost."""
        for key, value in attributes.items():
            setattr(self, key, value)
        self.inertia_ = float(self.cost_history_[-1])
        self.n_iter_ = len(self.cost_history_) - 1

    def _check_tokens(self, tokens: Array, fitting: bool = False) -> np.ndarray:
        """Tokens as finite float32 ``(N, d)``; ``fitting`` records d, else it must be that of the codewords.

        Raises:
            InputError: not a matrix, empty, NaN or infinity, another dimension than the codewords', or not
                fitted yet.
        """
        if not fitting:
            check_fitted(self)
        if not isinstance(tokens, torch.Tensor):  # lists, frames, and what has no numbers in it
            rows = check_array(
                tokens,
                ensure_all_finite=False,
                ensure_2d=False,
                allow_nd=True,
                ensure_min_samples=0,
                ensure_min_features=0,
                input_name="tokens",
            )
        else:
            rows = as_array(tokens)
        # These two are told in words that scikit-learn's tools look for.
        if rows.ndim == 1:
            raise InputError(
                f"tokens have shape {rows.shape}; give a matrix (N, d), one row per token. Reshape your data with "
                "reshape(1, -1) if it is one token"
            )
        if rows.ndim == 2 and rows.shape[1] == 0:
            raise InputError(f"tokens have 0 feature(s) (shape={rows.shape}) while a minimum of 1 is required.")
        points = as_points(rows)
        if not fitting and points.shape[1] != self.n_features_in_:
            raise InputError(
                f"X has {points.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} "
                "features as input; encode with the codebook of this latent space"
            )
        # Records or compares the number of columns, and their names where the tokens come as a data frame.
        validate_data(self, tokens if hasattr(tokens, "columns") else points, skip_check_array=True, reset=fitting)
        return points

    def _metrics_of(self, given: Training) -> torch.Tensor:
        """The packed metrics of the tokens, which must be given."""
        if given.metrics is None:
            raise InputError(
                f"{type(self).__name__} needs metrics; give those of the tokens, from token_metrics or "
                "posterior_metrics, as fit(tokens, metrics=metrics)"
            )
        return check_metrics(given.metrics, *given.points.shape)


def check_n_codes(n_codes: int, n_distinct: int, n_tokens: int | None = None) -> None:
    """Raise InputError unless ``1 <= n_codes <= n_distinct``."""
    check_at_least(n_codes, 1, "n_codes")
    if n_codes > n_distinct:
        of = "" if n_tokens is None else f" (n_samples={n_tokens})"
        raise InputError(
            f"n_codes is {n_codes}, but there are only {n_distinct} distinct tokens{of}; "
            f"lower it to {n_distinct} or below"
        )


def check_at_least(value: float, least: float, name: str) -> None:
    """Raise InputError unless ``value >= least``."""
    if not value >= least:
        raise InputError(f"{name} is {value}; it must be at least {least}")


def check_fitted(quantizer: object) -> None:
    """Raise UnfittedError unless the quantizer holds a codebook."""
    if not hasattr(quantizer, "cost_history_"):
        raise UnfittedError(f"this {type(quantizer).__name__} is not fitted yet; call fit first")


def state_value(state: dict[str, np.ndarray], key: str, owner: str) -> np.ndarray:
    """``state[key]`` as an array; InputError where it is missing."""
    if key not in state:
        raise InputError(f"the state of {owner} lacks {key!r}; fit the codebook again")
    return as_array(state[key])
