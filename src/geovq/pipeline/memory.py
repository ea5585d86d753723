"""Whether a run can fit into this machine's memory: asked before any compute.

From below: what is counted is there in any case, at the fewest bytes per number, so nothing that fits is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from geovq.configuration.codes import Sequential
from geovq.configuration.options import SIZES
from geovq.data.limits import machine_memory
from geovq.errors import ConfigError, InputError

if TYPE_CHECKING:
    from geovq.configuration.config import Config
    from geovq.data import DataInfo

_TRAINED = 16  # bytes of a parameter: weight, gradient and both moments of Adam
_FLOAT = 4
_PICTURE = 32  # bytes of a pixel while Matplotlib draws it
_TILE = 40  # pixels of the smallest picture of an image in a figure, per side
_GB = 1e9


@dataclass(frozen=True)
class Need:
    """What some stages hold at one time.

    Attributes:
        stages: any of them, separated by spaces.
        what: in words.
        settings: value of each key that it grows with, in the order of the arguments of ``n_bytes``.
        n_bytes: at least.
        on_device: held where networks run.
        limited: ``trainer.memory_gb`` counts for it.
    """

    stages: str
    what: str
    settings: dict[str, int]
    n_bytes: Callable[..., float]
    on_device: bool = False
    limited: bool = False

    def fault(self, memory: float, allowed_gb: float | None = None) -> str | None:
        """One line that names the largest key that alone could be made smaller, or None where it fits."""
        needed = self.n_bytes(*self.settings.values())
        if self.limited and allowed_gb is not None and _GB * allowed_gb < needed <= memory:
            return (
                f"trainer.memory_gb={allowed_gb:g}: at least {needed / _GB:.3g} GB of memory for {self.what}; "
                "raise it, or leave it out"
            )
        if needed <= memory:
            return None
        enough = [key for key in self.settings if self.n_bytes(*(self.settings | {key: 1}).values()) <= memory]
        largest = max((self.settings[key] for key in enough), default=0)
        named = ", ".join(f"{key}={value}" for key, value in self.settings.items() if not enough or value == largest)
        return (
            f"{named}: at least {needed / _GB:.3g} GB of memory for {self.what}, and there are {memory / _GB:.3g} GB; "
            "take a smaller value"
        )


def check_memory(config: Config, info: DataInfo, stages: Collection[str]) -> None:
    """Refuse what cannot fit; ``stages`` are those that have to be built.

    Raises ConfigError: one line per fault, with keys, values and the estimate.
    """
    here = machine_memory()
    device = _device_memory(config) or here
    asked = [need for need in needs(config, info) if not set(stages).isdisjoint(need.stages.split())]
    faults: dict[str, str] = {}
    allowed = config.trainer.memory_gb
    for fault in filter(None, (need.fault(device if need.on_device else here, allowed) for need in asked)):
        faults.setdefault(fault.partition(": ")[0], fault)  # one line for a key, whatever else it is too large for
    if faults:
        raise ConfigError("\n".join(faults.values()))


def check_fits(need: Need) -> None:
    """Refuse something that is held in main memory and is too large for it; raises ConfigError as the above."""
    if fault := need.fault(machine_memory()):
        raise ConfigError(fault)


def _device_memory(config: Config) -> float | None:
    import torch

    if config.trainer.device == "cpu" or not torch.cuda.is_available():
        return None
    return float(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)


def needs(config: Config, info: DataInfo) -> Iterator[Need]:
    """The largest things of a run."""
    from geovq.data.split import limited_counts, validation_count

    vae, evaluation = config.vae, config.evaluation
    kept, n_test = limited_counts(info.n_train, info.n_test, config.data.limit)
    n_train = kept - validation_count(config.data.validation, kept)
    tokens, test_tokens = n_train * config.n_tokens, n_test * config.n_tokens
    numbers, rows, n_tokens = prod(info.image_shape), max(1, info.n_classes), config.n_tokens
    dim, codes = {"vae.dim": vae.dim}, {"quantizer.K": config.quantizer.K}
    if vae.trains_jointly and not vae.takes_weights:  # of other classes nothing is known
        keys = ("dim", *vae.networks(info.image_shape).sized_by, "batch_size")
        sizes = {f"vae.{key}": getattr(vae, key) for key in keys}

        def training(*values: int) -> float:
            return autoencoder_bytes(config, info, n_train, dict(zip(keys, values, strict=True)))

        yield Need("vae joint", "training the autoencoder", sizes, training, on_device=True)
    # Latents and metric tensors are files that are mapped; what is read of them as tokens is held.
    what = f"{tokens} training tokens"
    yield Need("graph codebook", what, dim, lambda dim: _FLOAT * tokens * dim, limited=True)
    what = f"the metric tensors of {test_tokens} test tokens"
    yield Need("unquantized", what, dim, lambda dim: _FLOAT * test_tokens * dim * (dim + 1) / 2)
    # Index and length; a link may be listed from both ends.
    what = f"the graph of {tokens} training tokens"
    links = {"geo.k": config.geo.k}
    yield Need("graph", what, links, lambda k: 2 * _FLOAT * min(tokens, k) * tokens / 2, limited=True)
    samples = {"evaluation.n_samples": evaluation.n_samples}
    yield Need("samples", "the samples that the report measures", samples, lambda n: _FLOAT * n * numbers)
    columns = {"samples.per_class": config.samples.per_class}
    yield Need("samples", "the sheet of samples", columns, lambda n: picture_bytes(info, n * rows))
    shown = {"evaluation.n_figure_images": evaluation.n_figure_images}
    what = "the figure of reconstructions"
    yield Need("report", what, shown, lambda n: 3 * _FLOAT * n + picture_bytes(info, min(n, n_test)))
    if isinstance(config.assign, Sequential):
        what = "the metric of a whole image"
        yield Need("codes tuned_codes", what, dim, lambda dim: _FLOAT * (n_tokens * dim) ** 2, on_device=True)
    if not config.latents_are_points:
        sizes = codes | {"vae.batch_size": vae.batch_size}
        what = "the scores of a batch of tokens"
        per_code = _FLOAT * n_tokens
        yield Need("joint", what, sizes, lambda K, batch: per_code * K * min(batch, n_train), on_device=True)
    if config.has_prior and set(config.prior.asked_of(config.transformer)) == set(SIZES):  # of others nothing is known
        slots, most = slots_of(config)
        sizes = {
            f"transformer.{key}": getattr(config.transformer, key) for key in ("layers", "width", "batch_size")
        } | codes

        def prior(layers: int, width: int, batch: int, K: int) -> float:
            return prior_bytes(config, layers, width, min(batch, n_train), slots * config.n_tokens, min(most, K))

        yield Need("prior rate_prior_1 rate_prior_2", "training the prior", sizes, prior, on_device=True)


def picture_bytes(info: DataInfo, n_images: int) -> float:
    """What a figure of so many images takes while it is drawn."""
    return _PICTURE * n_images * max(_TILE, info.height) * max(_TILE, info.width)


def autoencoder_bytes(config: Config, info: DataInfo, n_train: int, sizes: dict[str, int]) -> float:
    """Weights as they are trained, and for a batch what the backward pass reads, with other values of ``vae``."""
    vae = config.vae.model_copy(update=sizes)
    try:
        parameters, numbers = vae.networks(info.image_shape).counts(vae.dim)
    except InputError:
        return 0.0  # the check of the grid says so
    return _TRAINED * parameters + _activation(config) * min(vae.batch_size, n_train) * numbers


def prior_bytes(config: Config, layers: int, width: int, batch: int, length: int, codes: int) -> float:
    """GPT-2's weights as they are trained; for a batch the inputs of its matrices, the attention and the logits."""
    parameters = layers * 12 * width**2 + (codes + length) * width
    numbers = layers * (length * 7 * width + config.transformer.heads * length**2)
    return _TRAINED * parameters + batch * (_activation(config) * numbers + _FLOAT * length * codes)


def _activation(config: Config) -> int:
    return 4 if config.trainer.precision == "32-true" else 2


def slots_of(config: Config) -> tuple[int, int]:
    """Codes of a token, and values that the first of them has; both from below."""
    sizes = type(config.quantizer).owner.least_sizes(config.quantizer)
    return len(sizes), max(sizes)
