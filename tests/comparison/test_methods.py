from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy import stats

from geovq.comparison.methods import find_baselines, group_seeds
from geovq.comparison.runs import ComparedRun
from geovq.comparison.summary import psnr_difference, units_of_autoencoders
from geovq.errors import ConfigError
from geovq.tracking import RunRecord


def run(quantizer: str, n_codes: int, seed: int = 0, run_id: str = "", psnr: Any = None, **params: Any) -> ComparedRun:
    values = {"quantizer.name": quantizer, "quantizer.K": n_codes, "seed": seed, "vae.seed": seed} | params
    record = RunRecord(
        run_id or f"{quantizer}{n_codes}{seed}",
        f"digits-{quantizer}-K{n_codes}-s{seed}",
        "FINISHED",
        {"data": "digits"},
        {key: str(value) for key, value in values.items()},
        {"rate_nominal_bits_per_image": 16.0 * n_codes},
        "sqlite:///",
        None,  # type: ignore[arg-type]
    )
    tensors = {"psnr": torch.as_tensor([20.0, 21.0] if psnr is None else psnr, dtype=torch.float64)}
    report = SimpleNamespace(tensors=lambda name: tensors, manifest={}, key="k")
    return ComparedRun(record, report, None)  # type: ignore[arg-type]


def test_a_method_holds_its_seeds_and_methods_stand_by_rising_k() -> None:
    runs = [run("random", 128, 1), run("euclidean", 64), run("random", 16), run("random", 128, 0)]
    methods, notes = group_seeds(runs)
    assert [(method.label, [each.seed for each in method.runs]) for method in methods] == [
        ("random, K=16", [0]),
        ("random, K=128", [0, 1]),
        ("euclidean, K=64", [0]),
    ]
    assert notes == []


def test_methods_of_one_quantizer_stand_side_by_side_whatever_the_order_of_runs() -> None:
    own, search = {"assign.name": "own"}, {"assign.name": "search"}
    runs = [run("random", 16, **own), run("euclidean", 16, **own), run("random", 16, **search)]
    runs += [run("euclidean", 16, **search)]
    assert [method.series for method in group_seeds(runs)[0]] == [
        "random, assign.name=own",
        "random, assign.name=search",
        "euclidean, assign.name=own",
        "euclidean, assign.name=search",
    ]


def test_places_devices_and_seeds_are_no_part_of_the_method() -> None:
    runs = [
        run("random", 16, 0, **{"paths.root": "a", "trainer.device": "cpu", "data.steps.vae": 3}),
        run("random", 16, 1, **{"paths.root": "b", "trainer.device": "cuda", "data.steps.vae": 4}),
    ]
    assert len(group_seeds(runs)[0]) == 1


def test_a_setting_that_tells_methods_of_one_quantizer_apart_is_in_every_label_of_it() -> None:
    runs = [
        run("random", 16, **{"vae.grid": 4}),
        run("random", 16, **{"vae.grid": 7}),
        run("random", 32, **{"vae.grid": 7}),
    ]
    runs += [run("euclidean", 16, **{"vae.grid": 4})]
    assert [method.label for method in group_seeds(runs)[0]] == [
        "random, vae.grid=4, K=16",
        "random, vae.grid=7, K=16",
        "random, vae.grid=7, K=32",
        "euclidean, K=16",
    ]


def test_labels_name_as_few_settings_as_tell_apart() -> None:
    settings = [{"vae.a": i % 2, "vae.b": i // 2, "vae.c": i} for i in range(4)]
    labels = [method.series for method in group_seeds([run("random", 16, **each) for each in settings])[0]]
    assert labels == [f"random, vae.c={i}" for i in range(4)]


def test_a_kind_is_named_rather_than_a_setting_that_it_alone_has() -> None:
    found = run("euclidean", 64, **{"assign.damping": "1.75", "assign.name": "search"})
    for order in (
        [found, run("euclidean", 64, **{"assign.name": "own"})],
        [run("euclidean", 64, **{"assign.name": "own"}), found],
    ):
        labels = {method.series for method in group_seeds(order)[0]}
        assert labels == {"euclidean, assign.name=own", "euclidean, assign.name=search"}


def test_the_same_seed_twice_is_no_second_sample() -> None:
    methods, notes = group_seeds([run("random", 16, run_id="aaaaaaaaaa"), run("random", 16, run_id="bbbbbbbbbb")])
    assert [each.record.run_id for each in methods[0].runs] == ["bbbbbbbbbb"]
    assert "aaaaaaaa" in notes[0]
    assert "same settings and seeds" in notes[0]


def test_a_method_as_baseline_is_met_at_the_same_k() -> None:
    methods, _ = group_seeds([run("euclidean", 16), run("euclidean", 32), run("random", 32), run("random", 64)])
    for baseline in (None, "euclidean"):
        found = find_baselines(methods, baseline)
        assert [method and method.label for method in found] == [
            "euclidean, K=16",
            "euclidean, K=32",
            "euclidean, K=32",
            None,
        ]


@pytest.mark.parametrize("baseline", ["random, K=64", "random", "random640", "rand", "digits-random-K64-s0"])
def test_a_method_at_one_k_as_baseline_is_that_of_all(baseline: str) -> None:
    methods, _ = group_seeds([run("euclidean", 16), run("euclidean", 32), run("random", 64)])
    assert [method and method.label for method in find_baselines(methods, baseline)] == ["random, K=64"] * 3


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ("geodesic", "baseline=geodesic: means 0 of the compared methods; .* random, vae.grid=4; .*euclidean, K=16"),
        ("random", "baseline=random: means 2 methods"),
        ("dig", "means 0"),
    ],
)
def test_an_unclear_baseline_lists_what_there_is(baseline: str, message: str) -> None:
    methods, _ = group_seeds(
        [run("random", 16, **{"vae.grid": 4}), run("random", 16, **{"vae.grid": 7}), run("euclidean", 16)]
    )
    with pytest.raises(ConfigError, match=message):
        find_baselines(methods, baseline)


def test_a_difference_is_over_the_shared_seeds_and_says_where_some_are_not() -> None:
    ours, theirs = group_seeds(
        [
            run("random", 16, 0, psnr=[20.0, 24.0]),
            run("random", 16, 1, psnr=[90.0, 90.0]),
            run("euclidean", 16, 0, psnr=[21.0, 26.0]),
        ]
    )[0]
    difference = psnr_difference(ours, theirs, 200, 0)
    assert (difference.value.mean, difference.value.low, difference.value.high) == (-1.5, -2.0, -1.0)
    assert difference.n_seeds == 1
    assert len(difference.notes) == 1
    assert "over the 1 they share" in difference.notes[0]


def test_without_a_shared_seed_means_over_seeds_are_paired_on_images() -> None:
    ours, theirs = group_seeds(
        [
            run("random", 16, 0, psnr=[20.0, 24.0]),
            run("random", 16, 1, psnr=[22.0, 26.0]),
            run("euclidean", 32, 2, psnr=[21.0, 26.0]),
        ]
    )[0]
    difference = psnr_difference(ours, theirs, 200, 0)
    assert (difference.value.mean, difference.value.low, difference.value.high) == (-0.5, -1.0, 0.0)
    assert len(difference.notes) == 2
    assert difference.n_seeds == 0
    assert "share no seed" in difference.notes[0]
    assert "Unequal rates: random, K=16 has 256 nominal bits per image, euclidean, K=32 512" in difference.notes[1]


def test_the_interval_over_seeds_and_images_keeps_their_parts_apart() -> None:
    # Differences by seed and image: (0, 1, 5) and (2, 1, 9), rows (2, 4), columns (1, 1, 7), covariance 11.
    b = torch.tensor([[20.0, 22.0, 24.0], [21.0, 20.0, 26.0]]).double()
    a = b + torch.tensor([[0.0, 1.0, 5.0], [2.0, 1.0, 9.0]])
    runs = [run("random", 16, s, psnr=a[s]) for s in (0, 1)] + [run("euclidean", 16, s, psnr=b[s]) for s in (0, 1)]
    ours, theirs = group_seeds(runs)[0]
    difference = psnr_difference(ours, theirs, 40_000, 3)
    assert difference.notes == ()
    assert difference.n_seeds == 2
    assert difference.value.mean == pytest.approx(3.0)
    of_seeds, of_images = 2 / 2, 11 / 3
    upper = of_seeds / 0.148472  # the 30 % quantile of chi-square with one degree of freedom
    freedom = (upper + of_images) ** 2 / (upper**2 + of_images**2 / 2)
    half = stats.t.ppf(0.975, freedom) * (of_seeds + of_images) ** 0.5
    assert (difference.value.low, difference.value.high) == pytest.approx((3 - half, 3 + half), rel=1e-4)
    assert difference.value[4:] == pytest.approx((1.0, (11 / 3) ** 0.5))


def test_seeds_that_only_one_method_has_do_not_undo_the_pairs() -> None:
    """Fine-tuning and sequential assignment have seeds of their own."""
    plain = [run("random", 16, seed, psnr=[20.0 + seed, 24.0 + seed]) for seed in range(3)]
    tuned = [
        run("random", 16, seed, psnr=[21.0 + 2 * seed, 25.0 + 2 * seed], run_id=f"t{seed}", **settings)
        for seed, settings in ((s, {"finetune.name": "both", "finetune.seed": s}) for s in range(3))
    ]
    theirs, ours = group_seeds([*plain, *tuned])[0]
    difference = psnr_difference(ours, theirs, 500, 0)
    assert (difference.n_seeds, difference.notes) == (3, ())
    assert difference.value.mean == pytest.approx(2.0)
    assert difference.value.low < 1.0 < 3.0 < difference.value.high


def test_distances_in_latents_of_several_autoencoders_come_with_a_warning() -> None:
    methods, _ = group_seeds([run("random", 16), run("euclidean", 16)])
    assert (
        len(units_of_autoencoders(methods, ["psnr", "distortion_latent_l2_squared"])) == 1
    )  # no latents known in common
    assert units_of_autoencoders(methods, ["psnr", "distortion_pullback_pixel2"]) == []
    assert units_of_autoencoders(methods[:1], ["distortion_latent_l2_squared"]) == []


def test_rates_that_differ_by_rounding_are_equal() -> None:
    ours, theirs = group_seeds([run("random", 16, psnr=[20.0, 21.0]), run("euclidean", 16, psnr=[20.0, 22.0])])[0]
    ours.runs[0].record.metrics["rate_nominal_bits_per_image"] *= 1 + 1e-15
    difference = psnr_difference(ours, theirs, 100, 0)
    assert not any("Unequal" in text for text in difference.notes)
