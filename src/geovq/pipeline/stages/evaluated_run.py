"""What evaluators are given: the parts of a finished run, each loaded or computed when it is first asked for.

Networks are on the device of the run; images, latents, codes and what networks make of them come back to the CPU.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from torch import Tensor, nn

from geovq.data.limits import memory_limit
from geovq.evaluation.image_sets import drawn
from geovq.geometry.graph import TokenGraph
from geovq.models.classifier import SmallClassifier
from geovq.models.codec import Codec
from geovq.models.condition import given
from geovq.models.tokens import tokens_of
from geovq.pipeline.large_tensors import Room, filled, room_within
from geovq.pipeline.stage import Config, Context, Inputs
from geovq.pipeline.stages.classifier import load_classifier, predict
from geovq.pipeline.stages.codes import load_codec, load_codes
from geovq.pipeline.stages.graph import load_graph
from geovq.pipeline.stages.latents import decode
from geovq.pipeline.stages.metric_tensors import decoder_metrics
from geovq.pipeline.stages.networks import final_codes, load_decoder, load_final_decoder, of_split

_BATCH = 500


class EvaluatedRun:
    """The parts of a run, of its test images unless a name says otherwise; images are (N, C, H, W) in [0, 1].

    Attributes:
        context, config, info, device: the run's, of its data set, of its networks.
        inputs: its artifacts, by stage.
        network: name of the classifier, which the scores that it measures carry.
    """

    def __init__(self, context: Context, inputs: Inputs) -> None:
        self.config, self.info, self.device, self.inputs = context.config, context.info, context.device, inputs
        self.network, self.context = f"{context.info.name}_cnn", context

    @cached_property
    def images(self) -> Tensor:
        """The originals."""
        return self.images_of("test")

    def images_of(self, split: str, n: int | None = None) -> Tensor:
        """The originals of ``train``, ``validation`` or ``test``, or n of them, those of ``cut``."""
        images: Tensor = getattr(self.context.data, split).images
        if n is not None:
            images = self.cut(images, n)
        return filled((batch.float() / 255 for batch in images.split(_BATCH)), len(images), self._room)

    @property
    def _room(self) -> Room:
        """Where as many floats go: into memory, or a file where that is more than ``data.memory_gb`` allows."""
        return room_within(memory_limit(self.config.data.memory_gb), self.config.root)

    @cached_property
    def latents(self) -> dict[str, Tensor]:
        """``mean`` (N, d, h, w) and, of a VAE, ``log_variance``."""
        return self.inputs["latents"].tensors("test")

    @property
    def tokens(self) -> Tensor:
        """The latents' means (T, d), row-major over image, row and column."""
        return tokens_of(self.latents["mean"])

    @cached_property
    def unquantized(self) -> Tensor:
        """D(μ), by the decoder that was trained with the encoder."""
        decoder = of_split(load_decoder(self.context, self.inputs), self.context, "test")
        return decode(decoder, self.latents["mean"], self.device, room=self._room)

    @cached_property
    def decoder(self) -> nn.Module:
        """The decoder of codes, fine-tuned where that was asked for."""
        return load_final_decoder(self.context, self.inputs)

    def decoded(self, latents: Tensor, classes: Tensor | None = None) -> Tensor:
        """What the decoder of codes makes of latents (N, d, h, w), of ``classes`` (N,) or no class where it is told."""
        return decode(given(self.decoder, classes), latents, self.device, room=self._room)

    def classes_of(self, split: str) -> Tensor | None:
        """The classes (N,) of the originals as the data set has them; None without labels."""
        classes: Tensor | None = getattr(self.context.data, split).labels
        return classes

    @cached_property
    def codec(self) -> Codec:
        """Turns codes into latents."""
        return load_codec(final_codes(self.inputs))

    @cached_property
    def codes(self) -> Tensor:
        """Codes (N, *shape)."""
        return self.codes_of("test")

    def codes_of(self, split: str) -> Tensor:
        """Codes of ``validation`` or ``test`` and, where ``has_training_codes``, of ``train``."""
        return load_codes(final_codes(self.inputs), split)

    @property
    def has_training_codes(self) -> bool:
        """Whether the training images were encoded."""
        return final_codes(self.inputs).has("train.safetensors")

    @cached_property
    def quantized(self) -> Tensor:
        """D(q), what the codes decode to."""
        return self.decoded(self.codec.embed(self.codes), self.classes_of("test"))

    @property
    def encoding(self) -> dict[str, float]:
        """What the encoding took and, of a search, gained."""
        summary: dict[str, float] = final_codes(self.inputs).json("summary")
        return summary

    @cached_property
    def metric_tensors(self) -> Tensor:
        """Packed metric tensors (T, d(d+1)/2) of the tokens, sketched with probes of their own, since those that helped
        to choose codes would flatter these.
        """
        if "unquantized" in self.inputs:
            return self.inputs["unquantized"].tensors("metric_tensors")["packed"].float()
        return decoder_metrics(self.context, self.inputs, "test", "sketch", self.config.geo.seed + 9000)

    @cached_property
    def rate(self) -> dict[str, Any] | None:
        """Rate of the autoencoder on validation images; None where it has no posterior."""
        latents = self.inputs["latents"]
        return latents.json("rate") if latents.has("rate.json") else None

    @property
    def unit(self) -> str:
        """Unit of lengths on the run's graph, ``pixel`` or ``latent``."""
        return geodesic_unit(self.config)

    @property
    def why_no_graph(self) -> str | None:
        """Why evaluators are given no graph; None where they are."""
        return no_geodesics(self.config)

    @cached_property
    def graph(self) -> TokenGraph:
        """The graph of the training tokens."""
        return load_graph(self.inputs["graph"])

    @cached_property
    def prior(self) -> dict[str, Any] | None:
        """Summary of the prior; None without one."""
        return self.inputs["prior"].json("summary") if "prior" in self.inputs else None

    @cached_property
    def samples(self) -> dict[str, Tensor]:
        """Of the prior at temperature 1: ``images`` in bytes, ``labels`` that were asked for (-1: none), ``codes``."""
        return self.inputs["samples"].tensors("measured")

    @cached_property
    def classifier(self) -> SmallClassifier | None:
        """The evaluation classifier; None where the images have fewer than two classes."""
        return load_classifier(self.context, self.inputs)

    @cached_property
    def labels(self) -> Tensor:
        """What the classifier takes the originals for, (N,)."""
        if "unquantized" in self.inputs:
            return self.inputs["unquantized"].tensors("labels")["labels"]
        return self.classify(self.images).argmax(1)

    def classify(self, images: Tensor) -> Tensor:
        """Logits (N, n_classes) that the classifier gives images, floats or bytes."""
        assert self.classifier is not None
        return predict(self.classifier, images, self.device)

    def features(self, images: Tensor) -> Tensor:
        """Embedding (N, D) of images by the classifier, floats or bytes."""
        assert self.classifier is not None
        return predict(self.classifier.embedding, images, self.device)

    def probabilities(self, features: Tensor) -> Tensor:
        """Probabilities (N, n_classes) that the classifier gives images of these features."""
        assert self.classifier is not None
        return predict(self.classifier.output, features, self.device).softmax(1)

    def features_of(self, split: str) -> Tensor:
        """Features of all ``train`` or ``test`` images."""
        return self.inputs["features"].tensors(split)["features"]

    @cached_property
    def quantized_features(self) -> Tensor:
        """Features of D(q)."""
        return self.features(self.quantized)

    @cached_property
    def unquantized_features(self) -> Tensor:
        """Features of D(μ)."""
        if "unquantized" in self.inputs:
            return self.inputs["unquantized"].tensors("features")["features"]
        return self.features(self.unquantized)

    @cached_property
    def sample_features(self) -> Tensor:
        """Features of the samples, in their order."""
        return self.features(self.samples["images"])

    @property
    def n_compared(self) -> int:
        """Images in each set where samples stand beside their floors: as many as the smallest has."""
        sizes = (len(self.features_of(split)) for split in ("train", "test"))
        return min(len(self.samples["codes"]), *sizes)

    def cut(self, rows: Tensor, n: int) -> Tensor:
        """n of the rows, always the same: of a test image and of what it is decoded to, or of neither."""
        return rows if n == len(rows) else rows[drawn(n, len(rows))]

    @property
    def test_nearest(self) -> Tensor:
        """Squared distance (N,) of test images to the nearest training image, of features."""
        return self.inputs["features"].tensors("test")["nearest_squared"]


def no_geodesics(config: Config) -> str | None:
    """Why a run measures no geodesic distortion, as far as its configuration tells; None where it does."""
    if config.evaluation.geodesic_codewords == 0:
        return "evaluation.geodesic_codewords=0"
    if config.is_joint:
        return "there is no graph beside a joint quantizer"
    if config.evaluation.geodesic_codewords == "auto" and not config.reads_graph:
        return (
            f"evaluation.geodesic_codewords=auto: quantizer={config.quantizer.name} needs no graph, and for this score "
            "alone none is built; take evaluation.geodesic_codewords=all or a number"
        )
    return None


def geodesic_unit(config: Config) -> str:
    """Unit of the lengths of a run's graph, which stands in the name of the score."""
    return "latent" if config.geo.metric == "none" else "pixel"
