from geovq.commands.table import report_table


def test_every_metric_is_shown_once_and_omissions_give_their_reason() -> None:
    metrics = {
        "psnr": 20.5,
        "psnr_continuous": 24.25,
        "perceptual_fashion_cnn": 0.5,
        "perceptual_fashion_cnn_continuous": 0.25,
        "perplexity": 123.4,
    }
    text = report_table("title", metrics, {"lpips": "no weights"})
    assert text.splitlines()[0] == "title"
    [psnr] = [line for line in text.splitlines() if "PSNR" in line]
    assert psnr.split()[-2:] == ["24.25", "20.50"]
    [perceptual] = [line for line in text.splitlines() if "perceptual" in line]
    assert perceptual.split()[-2:] == ["0.2500", "0.5000"]
    assert "fashion_cnn" in perceptual
    assert text.count("perplexity") == 1
    assert "lpips: omitted, no weights" in text


def test_ssim_stands_beside_its_window_and_what_is_done_at_borders() -> None:
    metrics = {"ssim": 0.9, "ssim_continuous": 0.95, "ssim_kernel_size": 7.0}
    [line] = [line for line in report_table("title", metrics, {}).splitlines() if "SSIM" in line]
    assert "window 7, reflected borders" in line
    assert line.split()[-2:] == ["0.9500", "0.9000"]


def test_a_joint_quantizer_stands_beside_its_autoencoder_and_no_vae() -> None:
    metrics = {"psnr": 20.5, "psnr_continuous": 24.25}
    head, psnr = report_table("title", metrics, {}, is_joint=True).splitlines()[1:3]
    assert head.split() == ["without", "quantizer", "codes"]
    assert "continuous VAE" in report_table("title", metrics, {})
    assert len(head) == len(psnr)
