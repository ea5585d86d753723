"""The habits of scikit-learn's estimators, by its own checks."""

from typing import Any

import numpy as np
import torch
from sklearn.utils.estimator_checks import parametrize_with_checks

from geovq.geometry.symmetric import pack_symmetric
from geovq.quantizers import (
    EuclideanKMeans,
    EuclideanKMedoids,
    PosteriorKMeans,
    PullbackKMeans,
    RandomTokens,
    WhitenedKMeans,
)


def any_metrics(tokens: Any) -> torch.Tensor | None:
    """Metrics for whatever scikit-learn sends: diagonal, from 1 to 2; none where it sends no matrix."""
    shape = np.shape(tokens)
    if len(shape) != 2 or 0 in shape:
        return None
    return pack_symmetric(torch.diag(torch.linspace(1, 2, shape[1]))).expand(shape[0], -1)


class BringsMetrics:
    """Stands before an estimator that needs metrics, and brings some."""

    def fit(self, tokens, y=None, *, metrics=None, graph=None, on_progress=None):
        return super().fit(tokens, y, metrics=any_metrics(tokens), graph=graph, on_progress=on_progress)

    def predict(self, tokens, metrics=None):
        return super().predict(tokens, any_metrics(tokens))


class Whitened(BringsMetrics, WhitenedKMeans):
    pass


class Posterior(BringsMetrics, PosteriorKMeans):
    pass


class Pullback(BringsMetrics, PullbackKMeans):
    pass


# Three codewords: one of the checks compares the cells with three classes.
ESTIMATORS = [kind(3) for kind in (EuclideanKMeans, EuclideanKMedoids, RandomTokens, Whitened, Posterior, Pullback)]


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_accepts(estimator, check):
    check(estimator)
