"""Tokens and slow definitions that the tests of structured codebooks share."""

import itertools

import numpy as np
import torch

from geovq.geometry.symmetric import pack_symmetric


def tokens_and_metrics(n=800, d=4, seed=0, rank=2):
    """Correlated tokens off the origin, with singular metrics of very different sizes; packed and full."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, d, rank)) * rng.lognormal(size=(n, 1, 1))
    full = factors @ factors.transpose(0, 2, 1)
    tokens = rng.normal(size=(n, d)) * np.geomspace(3, 0.5, d) @ rng.normal(size=(d, d)) + 5
    return tokens.astype(np.float32), pack_symmetric(torch.from_numpy(full)).float(), full


def shifted(full, ridge):
    """The metrics that the cost is made of: ``G + ρI``."""
    d = full.shape[1]
    return full + ridge * np.trace(full.mean(axis=0)) / d * np.eye(d)


def slow_best(tokens, metrics, tables):
    """Codes and costs of the cheapest of all sums of rows, each tried by its definition."""
    combinations = np.array(list(itertools.product(*(range(len(table)) for table in tables))))
    words = sum(table[combinations[:, slot]].astype(np.float64) for slot, table in enumerate(tables))
    error = tokens[:, None].astype(np.float64) - words
    costs = np.einsum("nki,nij,nkj->nk", error, metrics, error)
    return combinations[costs.argmin(axis=1)], costs.min(axis=1)
