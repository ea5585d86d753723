"""The groups of a run's configuration whose settings are the same for all.

Values stand in the YAML files under ``configs/``: nothing here has a default. Groups that name a class are in
``options``; how codes are assigned and tuned is in ``codes``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from geovq.configuration.fields import (
    Count,
    FilePath,
    NotNegative,
    OutputFolder,
    Positive,
    Resamplings,
    Seed,
    ShareBelowOne,
)
from geovq.configuration.section import Section


class Geo(Section):
    """Metric tensors and neighbour graph."""

    metric: Literal["sketch", "exact", "posterior", "none"]
    """Metric tensors from random backward passes, from all derivatives, from the encoder's variances, or none."""
    n_probes: Count
    """Random backward passes per image of a sketch; relative error 0.45 with 8, 0.32 with 16, 0.18 with 32."""
    context: Literal["neighbours", "own"]
    """Whose tensors measure an edge: the mean over a node and its neighbours, or those of its own tokens."""
    search: Literal["latent", "whitened", "pullback"]
    """Neighbours in latent L2, by the mean metric, or by the length of edges among thrice as many of those."""
    k: Count
    """Neighbours per distinct token."""
    symmetrize: Literal["union", "mutual"]
    """Keep a link that either end asks for, or both."""
    length: Literal["trapezoid", "simpson", "chord"]
    """How an edge is measured: by the metric at its ends, or by asking the decoder (the other two)."""
    recall: Annotated[float, Field(gt=0, le=1)]
    """Share of true neighbours to find."""
    seed: Seed
    """Of probes and of the search for neighbours."""


class Classifier(Section):
    """The evaluation classifier, whose features measure perceptual distance and whose labels judge samples."""

    steps: Count
    """Gradient steps."""
    batch_size: Count
    """Images per step."""
    learning_rate: Positive
    """Of AdamW."""


class Evaluation(Section):
    """What the report measures, and on how much."""

    n_samples: Annotated[int, Field(ge=10)]
    """Generated images; samples and their floors are cut to the fewest among these, test and training images."""
    n_figure_images: Count
    """Images in the grid of reconstructions, evenly spaced over the test images."""
    geodesic_codewords: Literal["auto", "all", 0] | Annotated[int, Field(ge=2)]
    """Whose cells the geodesic distortion is measured on: all, a number drawn, 0 for none; auto: all where that takes
    seconds, and none where the quantizer needs no graph."""
    lpips: Literal["auto", "off"]
    """auto: where its weights are there, else left out with the reason."""
    lpips_weights: FilePath | None
    """Local file of the torchvision backbone, such as alexnet-owt-7be5be79.pth."""
    lpips_net: Literal["alex", "vgg", "squeeze"]
    """Backbone of LPIPS."""
    inception_weights: FilePath | None
    """Local file of torch-fidelity's Inception-v3, weights-inception-2015-12-05-6726825d.pth; null leaves out fid, kid
    and is on it."""
    bootstrap: Resamplings
    """Resamplings behind each confidence interval."""
    seed: Seed
    """Of the bootstrap and the drawn codewords; not of probes and samples."""
    evaluators: list[dict[str, Any]]
    """More than ours: a list of classes, each a `_target_` and the arguments of its constructor."""
    classifier: Classifier
    """The evaluation classifier, trained once per data set."""


class Tracking(Section):
    """Where runs are recorded."""

    enabled: bool
    """Record runs with MLflow."""
    uri: str | None
    """null: mlflow.db below paths.root; else sqlite:////absolute/path.db, https://server, postgresql://…"""
    experiment: str
    """Name of the MLflow experiment."""
    run_name: str | None
    """null: a name made of data, quantizer, K, assignment, fine-tuning and seed."""
    log_every: Count
    """Training steps between two recorded points of a curve."""
    wait_seconds: Positive
    """How long a store that is locked, full or does not answer is waited for."""


class Trainer(Section):
    """How networks are trained, whichever they are."""

    device: Literal["auto", "cpu", "cuda"]
    """Where networks run."""
    devices: Annotated[int, Field(ge=1, le=64)]
    """Processes that compute together, each on its share of every batch and of the images: one per GPU, or on a CPU
    with a part of its threads each."""
    precision: Literal["auto", "32-true", "bf16-mixed"]
    """auto: bf16-mixed where the hardware has it."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None
    """CPU threads of one job, of all its processes together; null leaves PyTorch's choice."""
    memory_gb: Positive | None = None
    """GB of 10^9 bytes that a stage after the autoencoder may hold of main memory; null: tables of metrics take at most
    a quarter of it, and nothing is refused that fits into it."""
    warmup: ShareBelowOne
    """Fraction of the steps with rising learning rate, then a cosine to zero."""
    gradient_clip: Positive
    """Largest norm of the gradient."""
    validations: Annotated[int, Field(ge=1, le=100_000)]
    """How often the validation loss is taken, evenly over the steps."""
    checkpoint_seconds: Positive
    """A killed run loses at most about this much training."""
    profile: bool
    """Print where the time of training went."""


class Samples(Section):
    """How images are drawn from the prior."""

    temperatures: Annotated[list[NotNegative], Field(min_length=1)]
    """One sheet of samples for each; 0 takes the most likely code at every step."""
    top_k: Count | None
    """Keep the k most likely codes at each step; null keeps all."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None
    """Keep the smallest set of codes with this probability; null keeps all."""
    guidance: NotNegative
    """g of classifier-free guidance, of all samples: logits without the class + g (those with it - those without it);
    1 is none."""
    steps: Count | None
    """Of a prior that draws many codes at once, per grid; null: 8."""
    per_class: Count
    """Images per class (or in all, without labels) and temperature in the figures."""
    seed: Seed
    """Of the draws."""

    @property
    def in_key(self) -> dict[str, Any]:
        """The settings; those that came later only where they do something, so that older artifacts are still found."""
        return {**self.model_dump(exclude={"guidance", "steps"}), **self.changed}

    @property
    def changed(self) -> dict[str, Any]:
        """Guidance and steps, where they are asked for."""
        return ({"guidance": self.guidance} if self.guidance != 1 else {}) | (
            {"steps": self.steps} if self.steps else {}
        )


class Paths(Section):
    """Where output goes."""

    root: OutputFolder
    """Artifacts, runs and mlflow.db live below it; by default the environment variable GEOVQ_ROOT, or experiments."""

    @property
    def absolute(self) -> Path:
        """Absolute folder of all output, symbolic links followed."""
        return Path(self.root).resolve()
