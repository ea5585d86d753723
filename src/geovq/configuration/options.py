"""The groups of a run's configuration that name a class, and what their training reads.

Only what all classes of a group share is here; the rest is declared by their constructors
(``geovq.configuration.section``). Values stand in the YAML files under ``configs/``: nothing here has a default.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Set
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from geovq.configuration.fields import (
    Codes,
    Count,
    CountOrAuto,
    FilePath,
    Fraction,
    Label,
    NotNegative,
    OnError,
    Positive,
    Seed,
    Share,
    ShareBelowOne,
)
from geovq.configuration.model_folder import check_checkpoint
from geovq.configuration.section import Option, Section, blamed, is_ours

SIZES = ("layers", "width", "heads", "dropout")
"""Settings of ``transformer`` that the constructor of a prior may ask for."""


class Steps(Section):
    """Gradient steps that suit a data set; the networks' settings refer to them."""

    vae: Count
    """Of the autoencoder."""
    codebook: Count
    """Of the network that moves the codewords of quantizer=conditional."""
    finetune: Count
    """Of fine-tuning, at most."""
    transformer: Count
    """Of the prior."""
    classifier: Count
    """Of the evaluation classifier."""


class Data(Option):
    """Which images, and how they are split: a class with ``info()`` and ``load()`` (``geovq.data.ImageSource``)."""

    methods: ClassVar[tuple[str, ...]] = ("info", "load")
    supplied: ClassVar[tuple[str, ...]] = ("pixels",)
    keys: ClassVar[Mapping[str, str]] = {"seed": "split_seed"}

    root: FilePath
    """Folder of the public data sets; by default the environment variable GEOVQ_DATA, or data."""
    path: FilePath | None
    """A person's own images: folder tree, zip of one, .npz, or a dataset saved to disk."""
    download: bool
    """Fetch what is missing under root."""
    validation: Fraction | Annotated[int, Field(ge=1, strict=True)]  # 1.0 is neither
    """Number of training images to choose by, or a fraction of them."""
    test_fraction: Fraction
    """Share of test images where the source has no test part of its own."""
    image_size: Count | None
    """Crop the centre square and resize it to this many pixels a side; null: as the images are."""
    channels: Literal[1, 3] | None
    """1 is grey, 3 is RGB; null: as the images are."""
    full_scale: Annotated[int, Field(ge=1, le=65535)] | None
    """The stored value that counts as white; null: 255, or 65535 of 16-bit images."""
    limit: Annotated[int, Field(ge=20)] | None
    """Keep this many training images and a fifth as many test images (debugging); null: all."""
    memory_gb: Positive | None
    """Decoded images of more gigabytes (10^9 bytes) are prepared on the disk and read from there; null: a quarter of
    the memory."""
    on_error: OnError
    """Stop where image files cannot be read, or skip them."""
    default_grid: Count
    """Tokens per side of the latent grid that suit these images."""
    default_codes: Codes
    """Codes of one token that suit these images."""
    default_bits_per_token: Positive
    """Rate of the autoencoder that suits these images: log2 of default_codes."""
    default_dropout: ShareBelowOne
    """Dropout of the prior that suits these images: few of them are learnt by heart without."""
    default_batch: Count
    """Examples per gradient step of autoencoder and prior that suit these images."""
    default_learning_rate: Positive
    """Highest learning rate of autoencoder and small prior that suits this batch."""
    default_samples: Annotated[int, Field(ge=10)]
    """Images to draw and to measure beside as many test images."""
    steps: Steps
    """Gradient steps that suit these images."""
    split_seed: Seed
    """Draws the validation part, and the test part where there is none."""

    @model_validator(mode="after")
    def _a_path_has_a_reader(self) -> Data:
        reads = self.owner is not None and "path" in self.arguments(type(self).owner)
        if self.path is not None and not reads:
            raise ValueError(f"data.path={self.path}: data={self.name} does not read it; take data=folder")
        needed = {
            "folder": "a folder of images, a zip of one, or an .npz",
            "huggingface": "the folder of a dataset, as its save_to_disk writes it",
        }
        if self.path is None and self.name in needed:
            raise ValueError(f"data.path=null: data={self.name} needs {needed[self.name]}")
        if self.on_error == "skip" and self.owner is not None and "on_error" not in self.arguments(type(self).owner):
            raise ValueError(f"data.on_error=skip: data={self.name} has no files to leave out; take stop")
        return self


class Training(Section):
    """What the shared training loop reads of any network's settings."""

    steps: Count
    """Gradient steps."""
    batch_size: Count
    """Images, or sequences of codes, per step."""
    learning_rate: Positive
    """Of AdamW, after the warm-up."""
    weight_decay: NotNegative
    """Of matrices and kernels."""
    seed: Seed
    """Of initial weights and batches."""


class ImageLossSettings(Section):
    """Losses that make images look real beside the reconstruction term (``geovq.models.adversarial``)."""

    features: Literal["classifier", "lpips"]
    """Whose features the perceptual distance compares: those of a network of its own, trained to tell the classes as
    the evaluation classifier is; or LPIPS, with the weights of evaluation.lpips_weights."""
    perceptual_weight: NotNegative
    """Squared pixel error that a unit of perceptual distance is worth."""
    frechet_weight: NotNegative
    """Squared pixel error that a unit of the Fréchet distance between originals and what is drawn is worth."""
    adversarial_weight: NotNegative
    """Norm of the adversarial gradient, as a share of that of the other terms; 0: there is no discriminator."""
    adversarial_start: ShareBelowOne
    """Share of the steps before the adversarial term counts; the discriminator learns from the first on."""
    discriminator_rate: Positive
    """Learning rate of the discriminator, as a multiple of that of the others."""

    @property
    def takes_two_networks(self) -> bool:
        """Whether it compares sets, on the features of a second network too."""
        return self.features == "classifier" and self.frechet_weight > 0


_WHERE_WEIGHTS_LIE = {"path", "download", "checkpoint"}
_OF_A_MODEL = {"name", "target", "grid", "dim", "weights_sha256"}


class Vae(Option, Training):
    """The autoencoder: a module with ``encode`` and ``decode``; its loss and rate are the same for all."""

    bases: ClassVar[tuple[str, ...]] = ("torch.nn:Module",)
    methods: ClassVar[tuple[str, ...]] = ("encode", "decode")
    supplied: ClassVar[tuple[str, ...]] = ("image_shape",)

    grid: CountOrAuto
    """Tokens per side; auto: as many as a model has that comes with its weights."""
    dim: CountOrAuto
    """Dimensions of a token; auto likewise."""
    path: str | None
    """Of vae=pretrained: the folder of a model that diffusers saved, or its name on huggingface.co."""
    download: bool
    """Fetch the model of that name where there is no such folder."""
    checkpoint: FilePath | None
    """Weights of the class, in safetensors: they are taken as they are, and nothing is trained."""
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    """Hash of the weights' files, which artifacts depend on; null: read off the files."""
    loss: Literal["mse", "l1", "bce", "perceptual", "perceptual+adversarial"]
    """Reconstruction term, summed over the pixels of an image; the last two are mse and what image_loss weighs."""
    image_loss: ImageLossSettings
    """What vae.loss=perceptual and perceptual+adversarial add."""
    beta: Positive
    """Loss units per nat of KL divergence; the start value where the rate is matched."""
    kl_warmup: ShareBelowOne
    """Fraction of the steps over which beta rises from 0."""
    free_bits: NotNegative | Literal["rate"]
    """Bits per token that are not charged, in the mean over a batch; rate: each token above the rate only."""
    rate_bits_per_token: Positive | Literal["log2_K"] | None
    """Bits per token at which a controller of beta holds the KL divergence; log2_K: as quantizer.K has; null: none."""

    condition: Literal["none", "concat", "film"]
    """Tell the decoder the class of each image: as an embedding below each token, or as scale and shift of features."""
    condition_dropout: Annotated[float, Field(gt=0, lt=1)]
    """Fraction of training images whose class is withheld from the decoder, so that it can do without."""

    @model_validator(mode="before")
    @classmethod
    def _what_the_model_says(cls, values: Any) -> Any:
        fill = getattr(cls.owner, "filled", None)
        return fill(values) if fill is not None and isinstance(values, dict) else values

    @model_validator(mode="after")
    def _weights_are_taken_or_trained(self) -> Vae:
        if self.path is not None and not hasattr(self.owner, "weights_of"):
            raise ValueError(
                f"vae.path={self.path}: vae={self.name} does not read it; take vae=pretrained, or vae.checkpoint"
            )
        if self.checkpoint is not None and self.weights_sha256 is None:  # a recorded run has its weights in an artifact
            check_checkpoint(self.checkpoint)
        if not self.takes_weights:
            for key in ("grid", "dim"):
                if getattr(self, key) == 0:
                    raise ValueError(
                        f"vae.{key}=auto: read off a model that comes with its weights, and those of vae={self.name} "
                        "are trained; give a number, or vae.checkpoint"
                    )
            return self
        if self.loss != self.reconstruction:
            raise ValueError(
                f"vae.loss={self.loss}: weights that are given are not trained; take mse, l1 or bce, and "
                "finetune=adversarial to train the decoder on with these losses"
            )
        if self.condition != "none" or self.rate_bits_per_token is not None:
            key = "condition" if self.condition != "none" else "rate_bits_per_token"
            raise ValueError(
                f"vae.{key}={getattr(self, key)}: weights that are given are not trained; take "
                f"{'none' if key == 'condition' else 'null'}"
            )
        return self

    @model_validator(mode="after")
    def _the_class_takes_condition_and_rate(self) -> Vae:
        if self.owner is None:
            return self
        if self.condition != "none" and not (is_ours(self.owner) and self.trains_jointly):
            raise ValueError(
                f"vae.condition={self.condition}: decoders of vae={self.name} are not told classes; take none, or "
                "vae=spatial or vit"
            )
        if not self.has_posterior and self.rate_bits_per_token is not None:
            raise ValueError(
                f"vae.rate_bits_per_token={self.rate_bits_per_token}: vae={self.name} has no posterior "
                "whose rate could be matched; give null"
            )
        return self

    @property
    def reconstruction(self) -> str:
        """The reconstruction term alone: mse, l1 or bce."""
        return "mse" if self.loss.startswith("perceptual") else self.loss

    @property
    def has_posterior(self) -> bool:
        """Whether the encoder gives a Gaussian for every token, and so a rate; else it gives points."""
        asked = getattr(self.owner, "gives_posterior", None)
        return bool(getattr(self.owner, "has_posterior", False) if asked is None else asked(self))

    @property
    def takes_weights(self) -> bool:
        """Whether the weights are given; else they are trained."""
        return self.path is not None or self.checkpoint is not None

    def faults_with(self, image: tuple[int, int], grids: int) -> list[str]:
        """What the class says of images (H, W) that it cannot take, with one grid of tokens or two."""
        check = getattr(type(self).owner, "faults_with", None)
        return [] if check is None else check(self, image, grids)

    @property
    def trains_jointly(self) -> bool:
        """Whether the class says what makes its networks, which joint quantizers are then trained with.

        One that has a constructor of its own and only inherits ``networks`` does not: it may have built others.
        """
        owner = type(self).owner
        built, told = (
            next((each for each in getattr(owner, "__mro__", ()) if name in vars(each)), object)
            for name in ("__init__", "networks")
        )
        return told is not object and issubclass(told, built)

    def dumped(self, exclude: Set[str] = frozenset()) -> dict[str, Any]:
        """What enters keys: without ``image_loss``, which counts by itself, and what is left of no condition."""
        unread = {"condition", "condition_dropout"} if self.condition == "none" else set()
        found = self.model_dump(exclude={"image_loss", *_WHERE_WEIGHTS_LIE} | unread | exclude)
        if not self.takes_weights:
            del found["weights_sha256"]
            return found
        training = (Vae.model_fields.keys() | Training.model_fields.keys()) - _OF_A_MODEL
        return {key: value for key, value in found.items() if key not in training}

    def networks(self, image_shape: tuple[int, int, int]) -> Any:
        """What makes its encoder and decoder (``geovq.models.networks.Networks``), where it trains jointly."""
        owner = type(self).owner
        with blamed(owner, "networks"):
            return owner.networks(self, image_shape)


class Quantizer(Option):
    """The codebook: a class that is fitted to latents, or a module that is trained with its autoencoder."""

    bases: ClassVar[tuple[str, ...]] = (
        "geovq.quantizers.base:CodebookEstimator",
        "geovq.models.joint_quantizer:TokenQuantizer",
    )
    supplied: ClassVar[tuple[str, ...]] = ("dim", "device", "init", "grid")
    keys: ClassVar[Mapping[str, str]] = {"n_codes": "K", "random_state": "seed"}

    K: Codes
    """Codes of one token."""
    seed: Seed
    """Of the codebook: seeding, drawn candidates, initial weights."""

    def said(self, capability: str) -> Any:
        """What the class, where it asks its settings with these, says of itself: ``needs_graph``, ``is_joint``, …"""
        said = getattr(type(self).owner, capability)
        return getattr(self.make(), capability) if isinstance(said, property) else said


class Prior(Option):
    """The prior over codes: a class; its sizes, where its constructor asks for them, come from ``transformer``."""

    bases: ClassVar[tuple[str, ...]] = ("geovq.models.prior:Prior",)
    supplied: ClassVar[tuple[str, ...]] = ("layout", "codec", *SIZES)

    @property
    def in_key(self) -> dict[str, Any]:
        """The settings that are not what their constructor has by itself: new ones leave older artifacts found."""
        arguments = self.arguments(type(self).owner)
        return {key: getattr(self, key) for key, found in arguments.items() if getattr(self, key) != found.default}

    def asked_of(self, transformer: Transformer) -> dict[str, Any]:
        """The sizes that the constructor of the class asks for."""
        taken = inspect.signature(type(self).owner).parameters
        return {name: getattr(transformer, name) for name in SIZES if name in taken}


class Transformer(Training):
    """Sizes and training of the prior; with ``transformer=none`` there is none, and the other settings wait for one."""

    name: Label
    """Name of the option, by which runs are listed."""
    layers: Count
    """Blocks of the network."""
    width: Count
    """Dimensions of an embedding; a multiple of ``heads`` where there is attention."""
    heads: Count
    """Of attention."""
    dropout: ShareBelowOne
    """Of embeddings, attention and residual branches."""
    class_conditional: bool
    """The class token comes first; without labels, and for unconditional samples, a start token."""
    class_dropout: Share
    """Fraction of training images whose class is withheld."""
