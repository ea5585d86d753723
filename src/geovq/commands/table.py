"""The report as a table for the terminal: latents without quantization and codes side by side, units in every row."""

from __future__ import annotations

from collections.abc import Mapping

_PAIRED = (
    ("psnr", "PSNR to the original (dB, image mean)", ".2f"),
    ("psnr_pooled", "PSNR to the original (dB, pooled)", ".2f"),
    ("ssim", "SSIM", ".4f"),
    ("lpips", "LPIPS", ".4f"),
    ("perceptual", "perceptual distance", ".4f"),
    ("label_agreement", "labels that survive", ".1%"),
)


def report_table(
    title: str, metrics: Mapping[str, float], omitted: Mapping[str, str], *, is_joint: bool = False
) -> str:
    """Plain text: first what both columns share, then every other metric by name, then what is left out and why.

    Args:
        title: above the table.
        metrics: of a report.
        omitted: metrics that could not be had, with the reason.
        is_joint: a quantizer trained with its autoencoder has no VAE beside it, but that autoencoder without the
            quantizer.
    """
    shown: set[str] = set()
    beside = "without quantizer" if is_joint else "continuous VAE"
    lines = [title, f"  {'':<38}{beside:>19}{'codes':>12}"]
    for stem, label, form in _PAIRED:
        name = next((m for m in metrics if m == stem or (m.startswith(f"{stem}_") and stem == "perceptual")), None)
        if name is None:
            continue
        base = name.removesuffix("_continuous")
        shown |= {base, f"{base}_continuous"}
        left, value = (f"{metrics[each]:{form}}" if each in metrics else "–" for each in (f"{base}_continuous", base))
        note = f"{label} ({base.removeprefix('perceptual_')})" if stem == "perceptual" else label
        if stem == "ssim" and "ssim_kernel_size" in metrics:
            note = f"{label} (window {metrics['ssim_kernel_size']:g}, reflected borders)"
        lines.append(f"  {note:<38}{left:>19}{value:>12}")
    lines.append("")
    for name in sorted(set(metrics) - shown):
        lines.append(f"  {name:<50}{metrics[name]:>12.5g}")
    for name, reason in omitted.items():
        lines.append(f"  {name}: omitted, {reason}")
    return "\n".join(lines)
