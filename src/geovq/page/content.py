"""What the page of a run shows, read from its artifacts: no network is loaded and no image decoded.

A section is left out with the reason where a run has nothing to show in it. Pictures are cut to what keeps the page
below 3 MB.
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geovq.commands.table import declared, floor_rows, short_rows, texts, unquantized_title
from geovq.evaluation.evaluator import UNQUANTIZED, Score
from geovq.evaluation.evaluators import OURS
from geovq.evaluation.generation import FLOORS
from geovq.page import charts, pictures
from geovq.pipeline.disk import write_whole
from geovq.tracking import flatten

if TYPE_CHECKING:
    from geovq.configuration.config import Config
    from geovq.pipeline.artifacts import Artifact
    from geovq.pipeline.runner import StageRun

_LETTERS = {"reconstructions": 800_000, "codewords": 800_000, "samples": 700_000}
"""Of the pictures of a section, at most."""
_RATES = ("nominal", "unigram", "position", "prior", "prior_given_class")


@dataclass(frozen=True)
class FinishedRun:
    """What a page is made of.

    Attributes:
        name: of the run.
        config: the run's.
        results: of its stages, the report among them.
        words: overrides that ``train.py`` was given; None where that is not known.
        run_id: under which it is recorded; empty where it is not.
    """

    name: str
    config: Config
    results: Mapping[str, StageRun]
    words: Sequence[str] | None
    run_id: str

    @property
    def report(self) -> Artifact:
        """The artifact with its scores."""
        return self.results["report"].artifact

    @property
    def added(self) -> list[Score]:
        """Declarations of scores that are not ours."""
        return [Score(**each) for each in self.report.json("added_scores")]


def page_path(root: Path, name: str) -> Path:
    """``<root>/runs/<name>/report.html``, the name made safe as that of a folder."""
    safe = re.sub(r"[^\w.+=-]+", "_", name).strip("._")[:120]
    return root / "runs" / (safe or "run") / "report.html"


def write_page(run: FinishedRun, path: Path) -> Path:
    """Write the page in place of an earlier one, whole or not at all.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, html_page(run).encode())
    return path


def rendered(template: Path, **values: Any) -> str:
    """A page in the style of all, which needs nothing beside it."""
    from jinja2 import Environment, FileSystemLoader

    folders = FileSystemLoader([template.parent, Path(__file__).parent])  # the style is here
    environment = Environment(loader=folders, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    return environment.get_template(template.name).render(values)


def html_page(run: FinishedRun) -> str:
    """The page, from ``run.html`` beside this file."""
    report, config = run.report, run.config
    metrics, omitted = report.json("metrics"), report.json("omitted")
    return rendered(
        Path(__file__).with_name("run.html"),
        title=run.name,
        subtitle=_subtitle(run, metrics),
        unquantized=unquantized_title(config.is_joint),
        summary=short_rows(metrics, run.added),
        texts=lambda score: texts(score, metrics),
        reconstructions=_reconstructions(run, omitted),
        codewords=_codewords(run),
        usage=_usage(run, metrics),
        spectrum=_spectrum(run),
        samples=_samples(run),
        floors=floor_rows(metrics, run.added),
        floor_sets=[*FLOORS, "samples"],
        n_compared=f"{metrics.get('n_compared_images', 0):.0f}",
        no_prior=omitted.get("rate_prior_bits_per_image", "there is no prior"),
        rates=_rates(run, metrics, omitted),
        curves=_curves(run),
        scores=_scores(run, metrics),
        omitted=omitted,
        settings=_settings(config),
        stages=[
            (name, each.artifact.key, f"{each.artifact.manifest.get('seconds', 0):.1f}", each.artifact.directory)
            for name, each in run.results.items()
        ],
        commands=_commands(run),
    )


def _subtitle(run: FinishedRun, metrics: Mapping[str, float]) -> str:
    manifest, config = run.report.manifest, run.config
    commit = manifest.get("git")
    parts = [
        f"{config.data.name}, {metrics['n_test_images']:.0f} test images",
        f"quantizer {config.quantizer.name}, K = {config.quantizer.K}, assignment {config.assign.name}",
        f"measured {str(manifest.get('created', ''))[:16].replace('T', ' ')}",
        f"run {run.run_id}" if run.run_id else "not recorded",
    ]
    return "; ".join([*parts, f"commit {commit[:12]}"] if isinstance(commit, str) else parts)


def _reconstructions(run: FinishedRun, omitted: Mapping[str, str]) -> dict[str, Any]:
    """Layers of each image, from the original to the codes, and maps of the errors."""
    shown, per_image = run.report.tensors("pictures"), run.report.tensors("per_image")
    before = "without quantizer" if run.config.is_joint else "VAE"
    titles = {"original": "original", "continuous": before, "quantized": "codes"}
    layers = {title: shown[name] for name, title in titles.items() if name in shown}
    original, *outputs = (each.float() / 255 for each in layers.values())
    errors = [(output - original).abs().mean(1) for output in outputs]  # (n, H, W)
    top = max(float(each.max()) for each in errors) or 1.0
    groups = [
        (*(pictures.address(each[i]) for each in layers.values()), *(pictures.heat(each[i], top) for each in errors))
        for i in range(len(original))
    ]
    kept = pictures.fitting(groups, _LETTERS["reconstructions"])
    n = len(layers)
    scores = [per_image[name] for name in (f"psnr{UNQUANTIZED}", "psnr") if name in per_image]
    images = []
    for place, group in enumerate(kept):
        index = int(shown["index"][place])
        psnr = " | ".join(f"{float(each[index]):.1f}" for each in scores)
        images.append({"index": index, "layers": group[:n], "errors": group[n:], "psnr": psnr})
    return {
        "titles": list(layers),
        "images": images,
        "top": top,
        "shape": _shape(original),
        "remark": _shown(len(kept), len(groups), "images"),
        "reason": "" if "continuous" in shown else omitted.get(f"psnr{UNQUANTIZED}", "it was not measured"),
    }


def _codewords(run: FinishedRun) -> dict[str, Any] | None:
    """Tiles of codewords; None where they cannot be listed."""
    if not run.report.has("codewords.safetensors"):
        return None
    kept = run.report.tensors("codewords")
    counts = run.report.tensors("usage")["counts"]
    rows, columns = kept["grid"].tolist()
    groups = [
        (pictures.address(a, 96), pictures.address(b, 96)) for a, b in zip(kept["alone"], kept["within"], strict=True)
    ]
    shown = pictures.fitting(groups, _LETTERS["codewords"])
    tiles = []
    for place, (alone, within) in enumerate(shown):
        image, row, column = kept["place"][place].tolist()
        share = int(kept["count"][place]) / max(1, int(counts.sum()))
        frame = f"left:{column / columns:.2%};top:{row / rows:.2%};width:{1 / columns:.2%};height:{1 / rows:.2%}"
        tile = {"code": int(kept["code"][place]), "share": f"{share:.2%}", "alone": alone, "image": image}
        tiles.append(tile | ({"within": within, "frame": frame} if image >= 0 else {}))
    return {
        "tiles": tiles,
        "shape": _shape(kept["alone"]),
        "remark": _shown(len(shown), len(counts), "codewords"),
        "unused": int((counts == 0).sum()),
    }


def _usage(run: FinishedRun, metrics: Mapping[str, float]) -> dict[str, Any]:
    counts = run.report.tensors("usage")["counts"].sort(descending=True).values
    shares = (counts[counts > 0].double() / counts.sum()).tolist()
    if len(shares) <= 512:
        chart = charts.bar_chart(shares, "code, by rank of use", "share of tokens", log=True)
    else:
        ranks = list(range(1, len(shares) + 1))
        series = {"share": (ranks, shares)}
        chart = charts.line_chart(series, "code, by rank of use", "share of tokens", log=True, even=1 / len(counts))
    words = f"{len(counts)} codes, {len(shares)} in use, perplexity {metrics['perplexity']:.1f}"
    return {"chart": chart, "words": f"{words}; even use would give each {1 / len(counts):.2%}."}


def _spectrum(run: FinishedRun) -> list[dict[str, Any]]:
    """A chart for each spectrum, or why it is not there."""
    spectrum = run.report.json("spectrum")
    metric, kl = spectrum["metric_eigenvalues"], spectrum["kl_bits_per_dimension"]
    found = [
        {
            "title": "Mean metric tensor of test tokens",
            "chart": charts.bar_chart(
                sorted(metric, reverse=True), "direction", "eigenvalue, pixel² per latent²", log=True
            ),
            "words": "Eigenvalues (pixel² per latent²): how much a step in each direction changes the decoded image.",
        }
    ]
    words = "KL divergence of the posterior by latent dimension (bits per token), validation images, the largest first."
    if kl is None:
        return [*found, {"title": "KL divergence", "chart": "", "words": "Left out: the autoencoder has no posterior."}]
    chart = charts.bar_chart(sorted(kl, reverse=True), "dimension", "bits per token")
    return [*found, {"title": "KL divergence by dimension", "chart": chart, "words": words}]


def _samples(run: FinishedRun) -> dict[str, Any] | None:
    """A strip for each class and temperature; None without a prior."""
    if not run.report.has("samples.safetensors"):
        return None
    shown = run.report.tensors("samples")
    labels, names = shown["labels"], _class_names(run)
    temperatures = sorted(
        (name for name in shown if name.startswith("temperature_")), key=lambda name: float(name[12:])
    )
    classes = labels.unique().tolist()
    rows = []
    for label in classes:
        title = names[label] if 0 <= label < len(names) else "without class" if label < 0 else str(label)
        rows.append((title, tuple(pictures.strip(shown[name][labels == label]) for name in temperatures)))
    kept = pictures.fitting([strips for _, strips in rows], _LETTERS["samples"])
    n_classes = max(len(names) if classes[0] >= 0 else 1, len(classes))
    return {
        "temperatures": [name[12:] for name in temperatures],
        "rows": rows[: len(kept)],
        "others": [(name.replace("_", " "), pictures.strip(shown[name])) for name in ("random_codes", "real")],
        "remark": _shown(len(kept), n_classes, "classes"),
    }


def _class_names(run: FinishedRun) -> Sequence[str]:
    facts = (each.artifact.manifest.get("images", {}) for each in run.results.values())
    return next((each["class_names"] for each in facts if "class_names" in each), ())


def _rates(run: FinishedRun, metrics: Mapping[str, float], omitted: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Title, bits per image and per pixel value, and the description or why it is not measured."""
    values = run.report.tensors("pictures")["original"][0].numel()
    names = [f"rate_{each.removesuffix('_given_class')}_bits_per_image" for each in _RATES]
    names[-1] += "_given_class"
    rows: list[tuple[str, ...]] = [("image in bytes", f"{8 * values}", "8", "what it is stored in")]
    for score in declared(dict.fromkeys(names, 0.0)):
        if score.name in metrics:
            bits = metrics[score.name]
            rows.append((score.title, f"{bits:.1f}", f"{bits / values:.3f}", score.description))
        else:
            rows.append((score.title, "–", "–", f"left out: {omitted.get(score.name, 'not measured')}"))
    return rows


def _curves(run: FinishedRun) -> list[tuple[str, list[Any]]]:
    """Charts of each stage that learns: what was trained on beside the same on held-out images."""
    stages = []
    for name, result in run.results.items():
        if not result.artifact.has("history.json"):
            continue
        history = result.artifact.json("history")
        found: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
        for entry in history:
            for key, value in entry.items():
                if key in ("step", "learning_rate"):
                    continue
                of = "validation" if key.startswith("validation_") else "training"
                points = found.setdefault(key.removeprefix("validation_"), {}).setdefault(of, ([], []))
                points[0].append(float(entry["step"]))
                points[1].append(float(value))
        drawn = [charts.line_chart(series, "step", key.replace("_", " ")) for key, series in found.items()]
        if drawn:
            stages.append((name.replace("_", " "), drawn))
    return stages


def _scores(run: FinishedRun, metrics: Mapping[str, float]) -> list[tuple[str, list[tuple[Score, str, str]]]]:
    """Rows by evaluator, under its own words."""
    left = {score.name: score for score in declared(metrics, run.added)}
    groups = []
    for each in OURS:
        rows = [left.pop(name) for name in list(left) if any(score.named(name) for score in each.scores)]
        groups.append(((each.__doc__ or "").strip().rstrip("."), rows))
    groups.append(("Others", list(left.values())))
    return [(title, [(score, *texts(score, metrics)) for score in rows]) for title, rows in groups if rows]


def _settings(config: Config) -> list[tuple[str, list[tuple[str, str]]]]:
    """Names and values by section, those of no section first."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for name, value in flatten(config.model_dump(mode="json", exclude={"tracking"})).items():
        section, _, key = name.partition(".")
        sections.setdefault(section if key else "", []).append((key or section, value))
    return sorted(sections.items(), key=lambda item: item[0] != "")


def _commands(run: FinishedRun) -> list[str]:
    """What makes the run, samples and the report again."""
    if run.words is None:
        train = "# the words that train.py was given are not recorded; the settings are below"
    else:
        # Where it was recorded changes nothing.
        words = [word for word in run.words if not word.startswith("tracking")]
        train = shlex.join(["python", "src/train.py", *words])
    if not run.run_id:
        return [train, "# not recorded (tracking=none), so sample.py and evaluate.py do not find it"]
    which = f"run={run.run_id[:12]}"
    sample = shlex.join(["python", "src/sample.py", which, "temperature=[0.5,1.0]"])
    has_prior = run.config.has_prior
    return [train, sample if has_prior else "# no prior, so no samples", f"python src/evaluate.py {which}"]


def _shape(images: Any) -> str:
    """Width by height, as CSS."""
    return f"{images.shape[-1]} / {images.shape[-2]}"


def _shown(n: int, of: int, what: str) -> str:
    return f"The first {n} of {of} {what} are shown." if n < of else ""
