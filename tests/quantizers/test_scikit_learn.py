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
    ProductKMeans,
    PullbackKMeans,
    RandomTokens,
    ResidualKMeans,
    ScalarLevels,
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


class OneColumn(BringsMetrics):
    """Tells the codes of all slots as one number, which is all that scikit-learn asks for beyond what there is."""

    def fit(self, tokens, y=None, *, metrics=None, graph=None, on_progress=None):
        super().fit(tokens, y, metrics=metrics, graph=graph, on_progress=on_progress)
        self.labels_ = np.ravel_multi_index(tuple(self.labels_.T), self.code_sizes_)
        return self

    def predict(self, tokens, metrics=None):
        return np.ravel_multi_index(tuple(super().predict(tokens, metrics).T), self.code_sizes_)


class Product(OneColumn, ProductKMeans):
    pass


class Residual(OneColumn, ResidualKMeans):
    pass


class Scalar(OneColumn, ScalarLevels):
    pass


# Three codewords: one of the checks compares the cells with three classes.
ESTIMATORS = [kind(3) for kind in (EuclideanKMeans, EuclideanKMedoids, RandomTokens, Whitened, Posterior, Pullback)]
ESTIMATORS += [Product(3, n_parts=1), Residual(4, n_stages=2), Scalar(3)]


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_accepts(estimator, check):
    check(estimator)


def test_structured_codebooks_have_a_column_per_slot():
    tokens = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    for kind in (ProductKMeans, ResidualKMeans, ScalarLevels):
        quantizer = kind(8, metric="euclidean")
        codes = quantizer.fit_predict(tokens)
        assert codes.shape == (60, len(quantizer.code_sizes_))
        assert np.array_equal(codes, quantizer.predict(tokens))
