"""What product, residual and scalar codebooks have in common: search, least squares, state, bad input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.estimator_checks import estimator_checks_generator

from geovq.errors import InputError
from geovq.models.codec import stacked_codec
from geovq.quantizers import (
    EuclideanKMeans,
    ProductKMeans,
    ResidualKMeans,
    ScalarLevels,
    additive_fit,
    additive_search,
)
from geovq.quantizers.additive_fit import AdditiveDistortion, JointCells, refit, solve_step
from geovq.quantizers.additive_search import OneMetric, OwnMetrics
from geovq.quantizers.additive_tables import AdditiveTables, add_rows, all_codewords
from geovq.quantizers.lloyd import lloyd
from geovq.quantizers.metric_features import MetricFeatures
from structured_cases import shifted, slow_best, tokens_and_metrics

KINDS = [
    ("product", lambda **more: ProductKMeans(36, n_parts=2, **more)),
    ("residual", lambda **more: ResidualKMeans(36, n_stages=3, **more)),
    ("scalar", lambda **more: ScalarLevels(36, **more)),
]
kinds = pytest.mark.parametrize("make", [make for _, make in KINDS], ids=[name for name, _ in KINDS])
metrics_of = pytest.mark.parametrize("metric", ["euclidean", "pullback"])


def random_tables(seed, d, widths, sizes, free_offset):
    rng = np.random.default_rng(seed)
    return AdditiveTables(
        tuple(rng.normal(size=(size, width)) for size, width in zip(sizes, widths, strict=True)),
        tuple(np.eye(d) if width == d else rng.normal(size=(d, width)) for width in widths),
        rng.normal(size=d) if free_offset else np.zeros(d),
        free_offset,
    )


def costs_of(tokens, packed, full, metric, ridge=0.01):
    """The cost under test, and the same metrics for slow definitions."""
    origin = tokens.mean(axis=0)
    slow = shifted(full, ridge) if metric == "pullback" else np.broadcast_to(np.eye(tokens.shape[1]), full.shape)
    if metric == "euclidean":
        return OneMetric(tokens, np.eye(tokens.shape[1]), origin), slow
    shift = float((slow[0] - full[0])[0, 0])
    return OwnMetrics(MetricFeatures(tokens, packed, shift, origin)), slow


@kinds
@metrics_of
def test_attributes_obey_their_definitions(make, metric):
    tokens, packed, full = tokens_and_metrics()
    calls = []
    codebook = make(metric=metric, ridge=0.01)
    codebook.fit(tokens, metrics=packed, on_progress=lambda step, cost: calls.append((step, cost)))
    slow = shifted(full, 0.01) if metric == "pullback" else np.broadcast_to(np.eye(4), full.shape)
    _, least = slow_best(tokens, slow, codebook.tables_)
    error = tokens - codebook.decode(codebook.labels_).astype(np.float64)
    costs = np.einsum("ni,nij,nj->n", error, slow, error)
    assert (costs <= least * (1 + 1e-3) + 1e-3).all()
    assert codebook.inertia_ == pytest.approx(least.sum(), rel=1e-4)
    assert calls == list(enumerate(codebook.cost_history_))
    assert (np.diff(codebook.cost_history_) <= 0).all()
    if not (metric == "euclidean" and isinstance(codebook, ScalarLevels)):  # which starts from the best levels
        assert codebook.cost_history_[-1] < codebook.cost_history_[0]
    assert np.prod(codebook.code_sizes_) <= 36
    assert list(codebook.code_sizes_) == sorted(codebook.code_sizes_, reverse=True)
    assert codebook.code_sizes_ == tuple(len(table) for table in codebook.tables_)
    assert all(table.dtype == np.float32 for table in codebook.tables_)
    assert codebook.labels_.dtype == np.int32
    assert codebook.labels_.shape == (len(tokens), len(codebook.tables_))
    for codes in (codebook.predict(tokens, packed), codebook.encode_training(tokens)):
        assert np.array_equal(codes, codebook.labels_)


@kinds
def test_the_codec_decodes_to_the_same_vectors(make):
    tokens, packed, _ = tokens_and_metrics()
    codebook = make().fit(tokens, metrics=packed)
    codec = stacked_codec([torch.from_numpy(table) for table in codebook.tables_], grid=(4, 5))
    codes = codebook.labels_[:60].reshape(3, 4, 5, -1)
    grids = codec.embed(torch.from_numpy(codes)).permute(0, 2, 3, 1).reshape(60, 4)
    assert np.array_equal(grids.numpy(), codebook.decode(codebook.labels_[:60]))


@kinds
def test_without_metrics_codes_follow_the_mean_metric(make):
    tokens, packed, full = tokens_and_metrics()
    codebook = make(ridge=0.01).fit(tokens, metrics=packed)
    constant = np.broadcast_to(shifted(full, 0.01).mean(axis=0), full.shape)
    codes, _ = slow_best(tokens, constant, codebook.tables_)
    assert (codebook.predict(tokens) == codes).mean() > 0.999


@given(
    seed=st.integers(0, 100),
    sizes=st.sampled_from([(5,), (4, 3), (3, 2, 2), (2, 2, 2, 2)]),
    metric=st.sampled_from(["euclidean", "pullback"]),
)
@settings(max_examples=25, deadline=None)
def test_search_is_exhaustive_up_to_a_limit_and_a_wide_beam_is_beyond(seed, sizes, metric):
    tokens, packed, full = tokens_and_metrics(60, 3, seed)
    costs, slow = costs_of(tokens, packed, full, metric)
    tables = random_tables(seed, 3, (3,) * len(sizes), sizes, False).rows()
    codes, least = slow_best(tokens, slow, tables)
    assert all_codewords(tables) == pytest.approx(
        np.array([add_rows(tables, np.array([index]))[0] for index in np.ndindex(*sizes)])
    )
    for limit, beam in ((4096, 1), (0, 64)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(additive_search, "EXHAUSTIVE_CODES", limit)
            found, prices = costs.assign(tables, beam)
        words = add_rows(tables, found).astype(np.float64)
        paid = np.einsum("ni,nij,nj->n", tokens - words, slow, tokens - words)
        assert paid == pytest.approx(least, rel=1e-3, abs=1e-3)
        assert prices == pytest.approx(paid, rel=1e-3, abs=1e-2)
        assert (found == codes).mean() > 0.98


@metrics_of
def test_a_narrow_beam_ends_where_no_single_exchange_pays(metric, monkeypatch):
    tokens, packed, full = tokens_and_metrics(300, 3, 7)
    costs, slow = costs_of(tokens, packed, full, metric)
    tables = random_tables(1, 3, (3, 3, 3), (6, 5, 4), False).rows()
    monkeypatch.setattr(additive_search, "EXHAUSTIVE_CODES", 0)
    totals = []
    for beam in (1, 4, 30):
        codes, prices = costs.assign(tables, beam)
        totals.append(prices.sum(dtype=np.float64))
        for slot, table in enumerate(tables):
            for code in range(len(table)):
                other = codes.copy()
                other[:, slot] = code
                error = tokens - add_rows(tables, other).astype(np.float64)
                assert (np.einsum("ni,nij,nj->n", error, slow, error) >= prices * (1 - 1e-3) - 1e-2).all()
    assert totals[2] <= totals[1] <= totals[0]


@given(
    seed=st.integers(0, 100),
    shape=st.sampled_from([((3, 3), False), ((3,), False), ((2, 1), True), ((1, 1, 1), True), ((1, 1), True)]),
    metric=st.sampled_from(["euclidean", "pullback"]),
    joint=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_refitted_tables_solve_the_least_squares_problem(seed, shape, metric, joint):
    (widths, free_offset), sizes = shape, (4, 3, 2)[: len(shape[0])]
    tokens, packed, full = tokens_and_metrics(120, 3, seed)
    costs, slow = costs_of(tokens, packed, full, metric)
    tables = random_tables(seed, 3, widths, sizes, free_offset)
    codes = np.random.default_rng(seed).integers(0, sizes, size=(120, len(sizes))).astype(np.int32)
    cells = JointCells.of(costs, codes, sizes)
    # The residuals G^½(z − Σ B x − offset) are linear in all unknowns: numpy's lstsq finds the smallest.
    roots = np.linalg.cholesky(slow).transpose(0, 2, 1)
    parts = [
        np.einsum("nij,jr,nk->nikr", roots, basis, np.eye(size)[codes[:, m]]).reshape(120 * 3, -1)
        for m, (basis, size) in enumerate(zip(tables.bases, sizes, strict=True))
    ]
    design = np.concatenate([*parts, roots.reshape(360, 3)] if free_offset else parts, axis=1)
    target = (roots @ tokens[:, :, None].astype(np.float64)).ravel()
    solution = np.linalg.lstsq(design, target, rcond=None)[0]
    least = np.square(design @ solution - target).sum()
    with pytest.MonkeyPatch.context() as patch:
        if not joint:
            patch.setattr(additive_fit, "_JOINT_UNKNOWNS", 0)
        before, fitted = cells.cost(tables.rows()), refit(tables, cells)
        for _ in range(0 if joint else 20):  # at most 200 passes; none more where ten have moved nothing at all
            reached = cells.cost(fitted.rows())
            for _ in range(10):
                fitted = refit(fitted, cells)
            if reached - cells.cost(fitted.rows()) <= 1e-7 * abs(reached):
                break
    begun, ended = (tokens - add_rows(each.rows(), codes).astype(np.float64) for each in (tables, fitted))
    costs_before, costs_after = (np.einsum("ni,nij,nj->", error, slow, error) for error in (begun, ended))
    assert costs_after == pytest.approx(least, rel=1e-3, abs=1e-2)
    assert before - cells.cost(fitted.rows()) == pytest.approx(costs_before - costs_after, rel=1e-3, abs=1e-2)
    assert cells.cost(fitted.rows()) <= before


def test_rows_without_tokens_come_back_to_life():
    tokens, packed, full = tokens_and_metrics(500, 3)
    for metric in ("euclidean", "pullback"):
        costs, _ = costs_of(tokens, packed, full, metric)
        for widths, free_offset in (((3, 3), False), ((2, 1), True)):
            tables = random_tables(2, 3, widths, (6, 5), free_offset)
            far = tuple(np.where(np.arange(len(each))[:, None] < 2, each, 1e3) for each in tables.coordinates)
            start = AdditiveTables(far, tables.bases, tables.offset, free_offset)
            distortion = AdditiveDistortion(costs, np.eye(3), 8)
            assert len(distortion.unused(start, distortion.assign(start)[0])) > 4
            fitted = lloyd(distortion, start, 25)
            assert not distortion.unused(fitted.codebook, fitted.codes)
            assert (np.diff(fitted.history) <= 0).all()


@metrics_of
def test_order_of_tokens_does_not_matter_to_the_passes(metric):
    tokens, packed, full = tokens_and_metrics(400, 3)
    order = np.random.default_rng(3).permutation(400)
    tables = random_tables(0, 3, (3, 3), (4, 3), False)
    one, other = (
        lloyd(AdditiveDistortion(costs_of(tokens[rows], packed[rows], full[rows], metric)[0], np.eye(3), 8), tables, 10)
        for rows in (np.arange(400), order)
    )
    assert other.history == pytest.approx(one.history, rel=1e-3)
    assert (one.codes[order] == other.codes).mean() > 0.99


@kinds
@metrics_of
def test_beyond_the_exhaustive_limit_fit_and_predict_agree(make, metric, monkeypatch):
    tokens, packed, _ = tokens_and_metrics()
    exact = make(metric=metric).fit(tokens, metrics=packed)
    monkeypatch.setattr(additive_search, "EXHAUSTIVE_CODES", 0)
    codebook = make(metric=metric, beam=16).fit(tokens, metrics=packed)
    assert (np.diff(codebook.cost_history_) <= 0).all()
    assert codebook.inertia_ == pytest.approx(exact.inertia_, rel=0.1)
    assert np.array_equal(codebook.predict(tokens, packed), codebook.labels_)


@kinds
def test_own_metrics_pay(make):
    tokens, packed, full = tokens_and_metrics()
    ours, plain = make(metric="pullback").fit(tokens, metrics=packed), make(metric="euclidean").fit(tokens)
    assert ours.inertia_ < 0.9 * slow_best(tokens, shifted(full, 1e-3), plain.tables_)[1].sum()


@kinds
def test_same_seed_same_codebook_and_state_round_trip(make):
    tokens, packed, _ = tokens_and_metrics()
    codebook, twin = (make(random_state=4).fit(tokens, metrics=packed) for _ in range(2))
    assert np.array_equal(codebook.table_rows_, twin.table_rows_)
    state = codebook.get_state()
    assert all(isinstance(array, np.ndarray) for array in state.values())
    again = type(codebook).from_state(state)
    for one, other in zip(again.tables_, codebook.tables_, strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(again.predict(tokens, packed), codebook.labels_)
    assert np.array_equal(again.encode_training(tokens), codebook.labels_)
    assert again.get_params() == codebook.get_params()
    assert (again.inertia_, again.n_iter_, again.code_sizes_) == (
        codebook.inertia_,
        codebook.n_iter_,
        codebook.code_sizes_,
    )
    with pytest.raises(InputError, match="are not those of the fit"):
        again.encode_training(tokens + 1)


@kinds
def test_as_many_rows_as_distinct_tokens_cost_nothing(make):
    tokens, packed, _ = tokens_and_metrics(40)
    tokens[:] = tokens[np.arange(40) % 6]
    for metric in ("euclidean", "pullback"):
        codebook = make(metric=metric, max_iter=200).set_params(n_codes=64)
        if isinstance(codebook, ResidualKMeans):
            codebook.set_params(n_stages=1)
            assert codebook.set_params(n_codes=6).fit(tokens, metrics=packed).inertia_ == pytest.approx(0, abs=0.05)
            continue
        codebook.set_params(n_codes=36).fit(tokens, metrics=packed)
        assert np.isfinite(codebook.table_rows_).all()


@kinds
def test_equal_tokens_are_coded(make):
    tokens, packed, _ = tokens_and_metrics(20)
    tokens[:] = tokens[0]
    if isinstance(make(), ScalarLevels):
        codebook = make().fit(tokens, metrics=packed)
        assert codebook.inertia_ == pytest.approx(0, abs=1e-3)
        assert codebook.decode(codebook.labels_) == pytest.approx(tokens, abs=1e-3)
    else:
        with pytest.raises(InputError, match=r"only 1 distinct tokens \(n_samples=20\); lower n_codes"):
            make().fit(tokens, metrics=packed)


@kinds
def test_bad_input_is_named(make):
    tokens, packed, _ = tokens_and_metrics(50)
    with pytest.raises(InputError, match="needs metrics; give those of the tokens"):
        make().fit(tokens)
    with pytest.raises(InputError, match="metric is 'hyperbolic'; choose 'euclidean' or 'pullback'"):
        make(metric="hyperbolic").fit(tokens)
    with pytest.raises(InputError, match="ridge is 0; it must be above 0"):
        make(ridge=0).fit(tokens, metrics=packed)
    with pytest.raises(InputError, match="max_iter is 0"):
        make(max_iter=0).fit(tokens, metrics=packed)
    with pytest.raises(InputError, match="beam is 0"):
        make(beam=0).fit(tokens, metrics=packed)
    with pytest.raises(InputError, match="NaN"):
        make().fit(tokens, metrics=packed * np.nan)
    with pytest.raises(InputError, match="n_codes is 0; it must be at least 1"):
        make().set_params(n_codes=0).fit(tokens, metrics=packed)
    with pytest.raises(InputError, match="not fitted"):
        make().predict(tokens)
    codebook = make().fit(tokens, metrics=packed)
    slots = len(codebook.code_sizes_)
    with pytest.raises(InputError, match=rf"codes have shape \(50,\); give \(N, {slots}\), a column per slot"):
        codebook.decode(np.zeros(50, int))
    with pytest.raises(InputError, match="the slots have"):
        codebook.decode(np.full((50, slots), 36))
    with pytest.raises(InputError, match=r"shape \(10, 10\), but 50 tokens"):
        codebook.predict(tokens, packed[:10])
    with pytest.raises(InputError, match="3 features, but"):
        codebook.predict(tokens[:, :3])
    assert not hasattr(codebook, "cluster_centers_")


def test_flat_codebooks_have_one_table():
    tokens, _, _ = tokens_and_metrics(100)
    flat = EuclideanKMeans(7).fit(tokens)
    assert flat.code_sizes_ == (7,)
    assert np.array_equal(flat.tables_[0], flat.cluster_centers_)
    assert np.array_equal(flat.decode(flat.labels_), flat.cluster_centers_[flat.labels_])
    with pytest.raises(InputError, match="codes reach from 0 to 7"):
        flat.decode(np.array([0, 7]))
    with pytest.raises(InputError, match=r"give \(N,\)"):
        flat.decode(np.zeros((3, 1), int))


# Those that ask for one label per token, or for numbers of columns that blocks cannot share, do not apply.
_CHECKS = {
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_dont_overwrite_attributes",
    "check_dict_unchanged",
    "check_fit_idempotent",
    "check_fit1d",
    "check_fit_check_is_fitted",
    "check_estimators_unfitted",
    "check_estimators_nan_inf",
    "check_estimators_overwrite_params",
    "check_estimators_pickle",
    "check_estimators_fit_returns_self",
    "check_n_features_in",
    "check_methods_subset_invariance",
    "check_methods_sample_order_invariance",
    "check_complex_data",
    "check_readonly_memmap_input",
    "check_positive_only_tag_during_fit",
}
_ESTIMATORS = [
    ProductKMeans(4, n_parts=1, metric="euclidean"),
    ResidualKMeans(4, n_stages=2, metric="euclidean"),
    ScalarLevels(4, metric="euclidean"),
]


def _applying():
    for estimator in _ESTIMATORS:
        for tested, check in estimator_checks_generator(estimator, mark=None):
            name = getattr(check, "func", check).__name__
            if name in _CHECKS:
                yield pytest.param(tested, check, id=f"{type(estimator).__name__}-{name}")


@pytest.mark.parametrize(("estimator", "check"), list(_applying()))
def test_scikit_learn_accepts(estimator, check):
    check(estimator)


def test_a_step_in_metrics_that_rounding_made_indefinite_is_finite_and_solves_where_they_are_not():
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    matrix = basis @ np.diag([3.0, 2.0, 1.0, 0.5, 1e-4, -1e-3]) @ basis.T
    step = solve_step(matrix, matrix @ np.ones(6))
    assert np.isfinite(step).all()
    assert np.linalg.norm(matrix @ (step - 1)) < 0.01 * np.linalg.norm(matrix @ np.ones(6))
