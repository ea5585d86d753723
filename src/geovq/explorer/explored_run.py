"""A recorded run as the explorer reads it: nothing is built, each part is loaded when it is first looked at."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from threading import RLock
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from geovq.errors import ConfigError, InputError
from geovq.explorer.paths import KnownPaths
from geovq.geometry.computing import forward_mode
from geovq.geometry.graph import TokenGraph
from geovq.geometry.symmetric import mean_metric, square_root
from geovq.models.condition import given
from geovq.models.prior import OrderedPrior, Prior
from geovq.models.tokens import tokens_of
from geovq.models.vae import NATS_PER_BIT, Posterior
from geovq.pipeline.artifacts import Artifact
from geovq.pipeline.stage import Context, Inputs
from geovq.pipeline.stages.evaluated_run import EvaluatedRun
from geovq.pipeline.stages.networks import autoencoder_stage, codes_stage, load_decoder
from geovq.pipeline.stages.prior import load_prior

if TYPE_CHECKING:
    from geovq.data import ImageSplit

MOST_TOKENS = 20_000
"""Shown on the map."""
SPLITS = ("test", "train")


@dataclass(frozen=True)
class Place:
    """Where a token stands: ``image`` in its split, ``row`` and ``col`` in the grid."""

    image: int
    row: int
    col: int


class ExploredRun(EvaluatedRun):
    """A run whose stages up to the codes are there; graph, prior and report may be missing.

    Attributes:
        name, run_id: as recorded.
    """

    def __init__(self, context: Context, inputs: Inputs, name: str, run_id: str) -> None:
        super().__init__(context, inputs)
        self.name, self.run_id = name, run_id
        self._splits: dict[str, SplitTokens] = {}
        self._lock = RLock()

    def split(self, name: str) -> SplitTokens:
        """The images of ``test`` or ``train`` and what was made of them."""
        with self._lock:
            return self._splits.setdefault(name, SplitTokens(self, name))

    @cached_property
    def codewords(self) -> Tensor | None:
        """Every value (K, d) that a token can take; None where :attr:`no_codewords` says why."""
        codewords = self.codec.whole_codewords()
        return None if codewords is None else codewords.detach()

    @property
    def no_codewords(self) -> str | None:
        """Why no list of codewords holds all that a token can be; None where one does."""
        if self.codewords is not None:
            return None
        if self.codec.sees_neighbours:
            return "what a code of this run stands for depends on the codes before it"
        return "tokens of this run take too many values to list"

    @cached_property
    def latent_decoder(self) -> nn.Module:
        """The decoder that was trained with the encoder: what metric tensors and paths are measured by."""
        return load_decoder(self.context, self.inputs)

    @property
    def classes_told(self) -> tuple[str, ...]:
        """The classes that the decoder is told, by name; none where it is told nothing."""
        return () if self.config.vae.condition == "none" else self.info.class_names

    @cached_property
    def whitening(self) -> Tensor:
        """(d, d) symmetric root R of the mean pull-back metric of the test tokens: ‖Rδ‖ is pixel error on average."""
        stored = self.inputs["unquantized"].tensors("metric_tensors") if "unquantized" in self.inputs else {}
        packed = stored["packed"].float() if stored else self.metric_tensors
        return torch.from_numpy(square_root(mean_metric(packed)).astype(np.float32))

    @cached_property
    def graph(self) -> TokenGraph:
        """The graph of the training tokens, its largest array left on the disk until some of it is asked for."""
        artifact = self.inputs["graph"]
        arrays = {name: tensor.numpy() for name, tensor in artifact.tensors("graph").items()}
        mapped = artifact.mapped("graph", "node_metrics")
        if mapped is not None:
            arrays["node_metrics"] = mapped
        graph = TokenGraph.from_arrays(arrays, artifact.json("graph"))
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):  # it has been checked, whole
            mapped._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
        return graph

    @cached_property
    def known_paths(self) -> KnownPaths:
        """Shortest paths of the graph."""
        return KnownPaths(self.graph.adjacency)

    @cached_property
    def medoid_nodes(self) -> np.ndarray | None:
        """(K,) nodes of the graph that are codewords of a geodesic codebook; None of another."""
        if "codebook" not in self.inputs or "graph" not in self.inputs:
            return None
        state = self.inputs["codebook"].tensors("state")
        return state["medoid_nodes"].numpy() if "medoid_nodes" in state else None

    @cached_property
    def node_token(self) -> np.ndarray:
        """(M,) the first training token of each node of the graph."""
        token_node = self.graph.token_node
        first = np.full(self.graph.n_nodes, -1, np.int64)
        first[token_node[::-1]] = np.arange(len(token_node))[::-1]
        return first

    @cached_property
    def code_prior(self) -> Prior:
        """The prior itself; :attr:`prior` is its summary."""
        return load_prior(self.context, self.inputs)

    @property
    def no_single_codes(self) -> str | None:
        """Why the prior does not tell the probability of single codes, or go on from some; None where it does."""
        reason = self.missing("prior")
        if reason is None and not isinstance(self.code_prior, OrderedPrior):
            return f"prior={self.config.prior.name} gives whole images, not code after code"
        return reason

    def missing(self, stage: str) -> str | None:
        """Why a stage is not there and what would build it; None where it is."""
        if stage in self.inputs:
            return None
        reasons = {
            "graph": f"quantizer={self.config.quantizer.name} built no neighbour graph",
            "prior": "no prior was trained",
            "report": "no report was made",
        }
        remedies = {"graph": "quantizer=geodesic", "prior": "transformer=small", "report": "stages=all"}
        again = f"python src/train.py data={self.config.data.name} vae={self.config.vae.name}"
        if stage != "graph":
            again += f" quantizer={self.config.quantizer.name}"
        return f"{reasons[stage]}; {again} {remedies[stage]}"


class SplitTokens:
    """The tokens of one split of a run: token ``n·h·w + row·w + col`` is that of image n at (row, col).

    Attributes:
        run, name: of which run, which split.
    """

    def __init__(self, run: ExploredRun, name: str) -> None:
        self.run, self.name = run, name

    @property
    def data(self) -> ImageSplit:
        """Images in bytes and labels."""
        split: ImageSplit = getattr(self.run.context.data, self.name)
        return split

    @cached_property
    def latents(self) -> dict[str, Tensor]:
        """``mean`` (N, d, h, w) and, of a VAE, ``log_variance``."""
        return self.run.latents if self.name == "test" else self.run.inputs["latents"].tensors(self.name)

    @property
    def mean(self) -> Tensor:
        """(N, d, h, w)."""
        return self.latents["mean"]

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w)."""
        shape = self.run.latents["mean"].shape  # of the test images: those of the training images may not be needed
        return shape[2], shape[3]

    @property
    def n_tokens(self) -> int:
        """Of all images."""
        return len(self.data) * self.grid[0] * self.grid[1]

    @cached_property
    def tokens(self) -> Tensor:
        """(T, d)."""
        return tokens_of(self.mean)

    @cached_property
    def raw_codes(self) -> Tensor | None:
        """Codes (N, *shape) as the codec reads them; None where the split was not encoded."""
        if self.name == "train" and not self.run.has_training_codes:
            return None
        return self.run.codes_of(self.name)

    @cached_property
    def codes(self) -> Tensor | None:
        """Whole codes (N, h, w), rows of ``run.codewords``; None where a token has no such code."""
        if self.raw_codes is None or self.run.codewords is None:
            return None
        return self.run.codec.join_codes(self.raw_codes)

    @cached_property
    def bits(self) -> Tensor | None:
        """KL divergence of each token's posterior in bits, (N, h, w); None of an autoencoder without posterior."""
        if "log_variance" not in self.latents:
            return None
        return Posterior(self.mean, self.latents["log_variance"]).divergence() / NATS_PER_BIT

    @cached_property
    def shown(self) -> Tensor:
        """Images on the map, evenly spaced over the split, so that their tokens are at most ``MOST_TOKENS``."""
        most = max(1, MOST_TOKENS // (self.grid[0] * self.grid[1]))
        return torch.linspace(0, len(self.mean) - 1, min(most, len(self.mean))).long()

    @cached_property
    def shown_tokens(self) -> Tensor:
        """Numbers of their tokens, (P,)."""
        per_image = self.grid[0] * self.grid[1]
        return (self.shown[:, None] * per_image + torch.arange(per_image)).flatten()

    @cached_property
    def shown_errors(self) -> Tensor | None:
        """Squared pixel error of D(q) in the patch of each shown token, (P,), images in [0, 1]; None without codes."""
        if self.raw_codes is None:
            return None
        decoded = self.run.decoded(self.run.codec.embed(self.raw_codes[self.shown]), self.classes_of(self.shown))
        squared = (decoded - self.data.images[self.shown].float() / 255).square().sum(1)  # (n, H, W)
        parts = [squared[:, top:bottom, left:right].sum((1, 2)) for top, bottom, left, right in self.patches]
        return torch.stack(parts, dim=1).flatten()

    @cached_property
    def patches(self) -> list[tuple[int, int, int, int]]:
        """(top, bottom, left, right) in pixels of the part of an image that lies under each token of the grid."""
        (h, w), (height, width) = self.grid, self.data.images.shape[2:]
        rows, cols = ([size * i // n for i in range(n + 1)] for size, n in ((height, h), (width, w)))
        return [
            (rows[i], max(rows[i + 1], rows[i] + 1), cols[j], max(cols[j + 1], cols[j] + 1))
            for i in range(h)
            for j in range(w)
        ]

    def place(self, token: int) -> Place:
        """Where a token stands; InputError for one that is not there."""
        if not 0 <= token < self.n_tokens:
            raise InputError(f"token={token}: the {self.name} images have tokens 0 to {self.n_tokens - 1}")
        image, rest = divmod(token, self.grid[0] * self.grid[1])
        return Place(image, *divmod(rest, self.grid[1]))

    def patch(self, token: int) -> Tensor:
        """The part (C, p, q) of the image, in bytes, that lies under a token."""
        place = self.place(token)
        top, bottom, left, right = self.patches[place.row * self.grid[1] + place.col]
        return self.data.images[place.image, :, top:bottom, left:right]

    def classes_of(self, images: Tensor) -> Tensor | None:
        """The classes (n,) of some images (n,); None without labels."""
        return None if self.data.labels is None else self.data.labels[images]

    def latent_decoder(self, image: int) -> nn.Module:
        """That of the run, told the class of an image where it is told one."""
        decoder: nn.Module = given(self.run.latent_decoder, self.classes_of(torch.tensor([image])))
        return decoder

    def class_name(self, image: int) -> str | None:
        """Of an image; None without labels."""
        labels = self.data.labels
        return None if labels is None else self.run.info.class_names[int(labels[image])]


def jacobian(decode: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """(P, d) exact derivative of the decoded image at a point (d,); ``decode`` takes points (n, d)."""
    with forward_mode():  # a copy of the point for each direction
        directions = torch.eye(len(at), device=at.device)
        columns: Tensor = torch.func.jvp(decode, (at.repeat(len(at), 1),), (directions,))[1]
    return columns.flatten(1).T.float().cpu()


def explored(context: Context, present: dict[str, Artifact], name: str, run_id: str) -> ExploredRun:
    """A run of those of its stages that are there.

    Raises:
        ConfigError: it has no codes yet.
    """
    for stage in (autoencoder_stage(context.config), "latents", codes_stage(context.config)):
        if stage not in present:
            raise ConfigError(
                f"run={run_id[:12]} ({name}): its stage {stage} is not there, so there is nothing to explore; "
                "the same python src/train.py command builds it, run=latest takes the last finished run"
            )
    return ExploredRun(context, present, name, run_id)
