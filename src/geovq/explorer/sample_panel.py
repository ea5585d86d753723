"""Sample: draw from the prior by class, temperature, top-k, top-p and seed, or complete the lower half of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from dash import Dash, Input, Output, State, dcc, html

from geovq.errors import InputError
from geovq.explorer.edits import completed, original
from geovq.explorer.elements import answers, in_browser, message, panel, picture, several, tiles
from geovq.pipeline.contracts import check_sampled

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from geovq.explorer.explored_run import ExploredRun

_MOST = 64


def layout(run: ExploredRun) -> Component:
    """The panel, empty."""
    settings = run.config.transformer
    names = run.info.class_names if run.config.has_prior and settings.class_conditional else ()
    classes = [{"label": name, "value": label} for label, name in enumerate(names)]
    without = [{"label": "without class", "value": -1}] if not names or settings.class_dropout > 0 else []
    controls = [
        html.Label(
            ["class ", dcc.Dropdown([*classes, *without], 0 if names else -1, id="sample-class", clearable=False)]
        ),
        _number("temperature", "temperature", 1.0, 0, 0.05),
        _number("top-k", "top-k", None, 1, 1),
        _number("top-p", "top-p", None, 0, 0.01),
        _number("sample-seed", "seed", 0, 0, 1),
        _number("sample-number", "images", 16, 1, 1),
        html.Label(
            ["complete image ", dcc.Input(id="completed-image", type="number", min=0, step=1, placeholder="none")]
        ),
        html.Button("draw", id="draw"),
    ]
    return panel("Sample", controls, html.Div(id="samples"), dcc.Store(id="sample-asked"))


def _number(name: str, label: str, value: float | None, least: float, step: float) -> Component:
    return html.Label(
        [f"{label} ", dcc.Input(id=name, type="number", value=value, min=least, step=step, placeholder="all")]
    )


def register(app: Dash, run: ExploredRun) -> None:
    """Callbacks of the panel."""
    in_browser(app, "sample", Output("sample-asked", "data"), Input("tabs", "value"))

    @answers(
        app,
        Output("samples", "children"),
        *several(Input, "draw.n_clicks sample-asked.data"),
        *several(State, "sample-class.value temperature.value top-k.value top-p.value"),
        *several(State, "sample-seed.value sample-number.value completed-image.value split.value"),
    )
    def show(
        clicks: Any,
        asked: Any,
        label: int,
        temperature: float | None,
        top_k: int | None,
        top_p: float | None,
        seed: int | None,
        number: int | None,
        image: int | None,
        split: str,
    ) -> Any:
        missing = run.missing("prior")
        if missing is not None:
            return message(missing)
        settings = checked(run, temperature, top_k, top_p, seed, number)
        n = settings.pop("n")
        if image is not None:
            return _completed(run, split, image, label, n, settings)
        labels = torch.full((n,), label)
        codes = check_sampled(
            run.code_prior, run.code_prior.sample(run.code_prior.layout.start_ids(labels, n), **settings), n, run.codec
        )
        images = run.decoded(run.codec.embed(codes), labels)
        return [message("The same seed gives the same images."), tiles([picture(each, side="5rem") for each in images])]


def checked(
    run: ExploredRun,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    number: int | None,
) -> dict[str, Any]:
    """The settings as ``Prior.sample`` takes them, and ``n``.

    Raises:
        InputError: one that is out of its range, by name.
    """
    largest = max(run.codec.sizes)
    if temperature is None or temperature < 0:
        raise InputError(
            f"temperature={temperature}: give a number of at least 0 (0 takes the most likely code each time)"
        )
    if top_k is not None and not 1 <= top_k <= largest:
        raise InputError(f"top-k={top_k}: there are {largest} codes; give 1 to {largest}, or nothing for all")
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError(f"top-p={top_p}: give a probability above 0 and up to 1, or nothing for all")
    if seed is None or not 0 <= seed < 2**63:
        raise InputError(f"seed={seed}: give a whole number from 0 on")
    if number is None or not 1 <= number <= _MOST:
        raise InputError(f"images={number}: give 1 to {_MOST}")
    return {"temperature": float(temperature), "top_k": top_k, "top_p": top_p, "seed": int(seed), "n": int(number)}


def _completed(
    run: ExploredRun, split: str, image: int, label: int, n: int, settings: dict[str, Any]
) -> list[Component]:
    before = original(run.split(split), image)
    codes = completed(run, before.codes, label, n, settings)
    images = run.decoded(run.codec.embed(codes), torch.tensor([label]))
    rows = run.codec.shape[0]
    kept = (0.0, (rows // 2) / rows, 0.0, 1.0)
    return [
        message(
            f"Each keeps the codes of the upper {rows // 2} of {rows} rows of image {image} (framed); the prior draws "
            "the rest."
        ),
        tiles(
            [
                picture(before.original, "image", "5rem"),
                picture(before.decoded, "its codes", "5rem", kept),
                *(picture(each, f"drawn {number + 1}", "5rem", kept) for number, each in enumerate(images)),
            ]
        ),
    ]
