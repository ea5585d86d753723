from geovq.commands.table import report_table, short_table
from geovq.evaluation.evaluator import GROUPS, Score
from geovq.evaluation.evaluators import SCORES


def test_every_metric_is_shown_once_and_omissions_give_their_reason() -> None:
    metrics = {
        "perplexity": 123.4,
        "psnr_continuous": 24.25,
        "psnr": 20.5,
        "perceptual_fashion_cnn": 0.5,
        "perceptual_fashion_cnn_continuous": 0.25,
        "of_old": 7.0,
    }
    title, head, *rows = report_table("title", metrics, {"lpips": "no weights"}).splitlines()
    assert title == "title"
    assert head.split() == ["continuous", "VAE", "codes"]
    assert [row.split() for row in rows] == [
        ["psnr", "24.25", "20.50", "dB", "↑"],
        ["perceptual_fashion_cnn", "0.2500", "0.5000", "↓"],
        ["perplexity", "123.4", "codes", "↑"],
        ["of_old", "7"],
        ["lpips:", "omitted,", "no", "weights"],
    ]


def test_a_score_of_another_lab_has_its_own_form_and_unit() -> None:
    added = [Score("sharpness", "sharpness", "edges", form=".1f")]
    assert report_table("title", {"sharpness": 2.0}, {}, added).splitlines()[-1].split() == [
        "sharpness",
        "2.0",
        "edges",
    ]


def test_the_window_of_ssim_stands_in_the_table() -> None:
    metrics = {"ssim": 0.9, "ssim_continuous": 0.95, "ssim_kernel_size": 7.0}
    rows = [row.split() for row in report_table("title", metrics, {}).splitlines()[2:]]
    assert ["ssim", "0.9500", "0.9000", "↑"] in rows
    assert ["ssim_kernel_size", "7", "pixel,", "borders", "reflected"] in rows


def test_a_joint_quantizer_stands_beside_its_autoencoder_and_no_vae() -> None:
    metrics = {"psnr": 20.5, "psnr_continuous": 24.25}
    head = report_table("title", metrics, {}, is_joint=True).splitlines()[1]
    assert head.split() == ["without", "quantizer", "codes"]


def test_the_short_table_has_groups_and_a_reason_once() -> None:
    metrics = {
        "perplexity": 123.4,
        "psnr_continuous": 24.25,
        "psnr": 20.5,
        "psnr_validation": 20.0,
        "mse": 0.01,
        "rate_nominal_bits_per_image": 64.0,
        "edges": 2.0,
    }
    omitted = {"fid_digits_cnn": "no prior", "kid_digits_cnn": "no prior", "recall_digits_cnn": "no prior"}
    added = [Score("edges", "edges kept", "edges", form=".1f", group="codebook")]
    title, head, *rows = short_table("title", metrics, omitted, added).splitlines()
    assert (title, head.split()) == ("title", ["continuous", "VAE", "codes"])
    assert [row.split() for row in rows] == [
        ["reconstruction"],
        ["PSNR", "24.25", "20.50", "dB", "↑"],
        ["codebook"],
        ["perplexity", "123.4", "codes", "↑"],
        ["edges", "kept", "2.0", "edges"],
        ["rate"],
        ["nominal", "rate", "64.0", "bits/image", "↓"],
        ["samples"],
        ["FID", "(our", "network),", "recall:", "omitted,", "no", "prior"],
    ]


def test_a_score_of_samples_stands_between_its_floors() -> None:
    metrics = {
        "fid_digits_cnn": 25.7,
        "fid_digits_cnn_standard_error": 0.31,
        "fid_digits_cnn_training": 0.5,
        "fid_digits_cnn_reconstructions": 22.4,
        "fid_digits_cnn_reconstructions_continuous": 20.4,
        "n_compared_images": 359.0,
        "sample_class_accuracy": 0.8,
    }
    *_, group, accuracy, head, row = short_table("title", metrics, {}).splitlines()
    assert group == "samples"
    assert accuracy.split()[:3] == ["sample", "accuracy", "0.800"]
    assert head.split() == ["359", "images", "in", "each", "set", "training", "images", "D(μ)", "D(q)", "samples"]
    assert row.split() == ["FID", "(our", "network)", "0.5", "20.4", "22.4", "25.7", "±", "0.31", "↓"]
    assert len(head) == len(row) - 3


def test_about_twenty_scores_have_a_group() -> None:
    assert 20 <= sum(bool(score.group) for score in SCORES) <= 28
    assert {score.group for score in SCORES} == {"", *GROUPS}
