"""Whether samples copy training images: they would lie nearer to them than test images do.

Distances are those of the classifier's embedding: pixels count a shift of a garment as far as another garment, and a
sample's blur as far as either. Since a decoder's blur sets its images apart from training images in any space, copies
of codes are counted as well: there a copy is exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geovq.evaluation import needs
from geovq.evaluation.evaluator import NEITHER, SAMPLES, Measured, Score, evaluator
from geovq.evaluation.generation import TEST
from geovq.evaluation.neighbourhoods import nearest_squared

if TYPE_CHECKING:
    from geovq.pipeline.stages.evaluated_run import EvaluatedRun

EXPECTED = 0.01
"""Share of test images that count as copies, which sets the distance."""


def share_of_copies(train: Tensor, test_nearest: Tensor, samples: Tensor, device: torch.device | None = None) -> float:
    """Share of samples (S, D) nearer to their nearest training image than all but 1 % of test images to theirs.

    ``train`` are features (N, D) of all training images, ``test_nearest`` (M,) squared distances to the nearest of them
    of images that no fit has seen. 0.01 in expectation where samples and test images are of one distribution.
    """
    limit = test_nearest.quantile(EXPECTED)
    return float((nearest_squared(samples, train, device) < limit).double().mean())


def share_seen(train: Tensor, codes: Tensor) -> float:
    """Share of codes (S, …) that are, in every place, those of one of the training images (N, …)."""
    known = {row.tobytes() for row in train.flatten(1).numpy()}
    return sum(row.tobytes() in known for row in codes.to(train.dtype).flatten(1).numpy()) / len(codes)


@evaluator(
    Score(
        *("sample_copies", "near training images", "share", NEITHER, ".3f"),
        "samples nearer to one than 99 % of test images, classifier's embedding; 0.01 without copying",
        group=SAMPLES,
        at_the_end=False,
    ),
    needs=[needs.classifier, needs.prior],
)
def copies(run: EvaluatedRun) -> Measured:
    """Whether samples lie nearer to training images than test images do"""
    n = run.n_compared
    share = share_of_copies(run.features_of("train"), run.test_nearest, run.sample_features[:n], run.device)
    return Measured({"sample_copies": share})


_SEEN = Score("sample_codes_seen", "samples with codes of a training image", "share", NEITHER, ".4f")


@evaluator(_SEEN, _SEEN.of(TEST, "(test images)"), needs=[needs.prior, needs.training_codes])
def copied_codes(run: EvaluatedRun) -> Measured:
    """Whether samples, and for comparison test images, have in every place the codes of one training image"""
    train, n = run.codes_of("train"), run.n_compared
    shares = share_seen(train, run.samples["codes"][:n]), share_seen(train, run.codes)
    return Measured(dict(zip(("sample_codes_seen", "sample_codes_seen_test"), shares, strict=True)))
