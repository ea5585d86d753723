"""Codes: an image with its grid of codes; another codeword in one place, what the prior says, what search would do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
import torch
from dash import ALL, Dash, Input, Output, State, ctx, dcc, html, no_update

from geovq.errors import InputError
from geovq.explorer.edits import EditedImage, Slot, original
from geovq.explorer.elements import answers, chart, error_map, in_browser, message, panel, picture, several, tiles
from geovq.explorer.explored_run import SPLITS

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from geovq.explorer.explored_run import ExploredRun

_N_ALTERNATIVES = 24
_OWN = "own"


def layout(run: ExploredRun) -> Component:
    """The panel, empty."""
    levels = run.codec.levels
    slots = [
        {"label": f"grid {level + 1}, slot {slot + 1}", "value": f"{level}.{slot}"}
        for level in range(len(levels))
        for slot in range(len(levels[level].sizes))
    ]
    classes = [{"label": name, "value": label} for label, name in enumerate(run.classes_told)]
    classes = [{"label": "its class", "value": _OWN}, *classes, {"label": "without class", "value": -1}]
    controls = [
        html.Label(["image ", dcc.Input(id="image", type="number", min=0, step=1, value=0, debounce=True)]),
        html.Button("next", id="next-image"),
        html.Button("what would search do?", id="search-step"),
        html.Button("back to the run's codes", id="reset-codes"),
        html.Label(["codes of ", dcc.Dropdown(slots, "0.0", id="slot", clearable=False)], hidden=len(slots) == 1),
        html.Label(
            ["decoded as ", dcc.Dropdown(classes, _OWN, id="told", clearable=False)], hidden=not run.classes_told
        ),
    ]
    stores = dcc.Store(id="codes-asked", data={"token": None, "first": None}), dcc.Store(id="facts", data=_facts(run))
    contents = html.Div(id="codes"), html.Div(id="alternatives"), dcc.Store(id="edit", data=None)
    return panel("Codes", controls, *contents, *stores)


def _facts(run: ExploredRun) -> dict[str, Any]:
    """What the page itself must know to tell the image of a token."""
    height, width = run.split("test").grid
    return {"per_image": height * width, "n": {split: len(run.split(split).data) for split in SPLITS}}


def register(app: Dash, run: ExploredRun) -> None:
    """Callbacks of the panel."""

    in_browser(
        app,
        "codes",
        *several(Output, "image.value codes-asked.data"),
        *several(Input, "picked.data kept.data next-image.n_clicks tabs.value"),
        *several(State, "image.value codes-asked.data facts.data"),
    )

    @answers(
        app,
        *several(Output, "codes.children edit.data"),
        *several(Input, "image.value split.value codes-asked.data search-step.n_clicks reset-codes.n_clicks"),
        *several(Input, "slot.value told.value"),
        Input({"alternative": ALL}, "n_clicks"),
        Input({"cell": ALL}, "n_clicks"),
        *several(State, "edit.data tabs.value"),
    )
    def show(
        image: int | None,
        split: str,
        asked: Any,
        step: Any,
        reset: Any,
        slot: str,
        told: int | str,
        chosen: list[Any],
        cells: list[Any],
        edit: dict[str, Any] | None,
        tab: str,
    ) -> Any:
        if tab != "codes":
            return no_update, no_update
        before = original(run.split(split), image)
        level, number = (int(part) for part in slot.split("."))
        cause, said = ctx.triggered_id, ""
        label = None if told == _OWN else int(told)
        edited, position = EditedImage(before.split, before.image, before.codes, label), None
        if edit is not None and (edit["image"], edit["split"]) == (image, split) and cause != "reset-codes":
            edited = EditedImage(before.split, before.image, torch.tensor(edit["codes"]), label)
            position = edit["position"] if edit["slot"] == slot else None
        pressed = ctx.triggered and ctx.triggered[0]["value"]
        if cause == "search-step":
            edited, said = _searched(edited)
        elif isinstance(cause, dict) and "alternative" in cause and pressed and position is not None:
            edited = edited.with_code(position, cause["alternative"])
        elif isinstance(cause, dict) and "cell" in cause and pressed:
            position = cause["cell"]
        state = {"image": image, "split": split, "codes": edited.codes.tolist(), "told": label}
        state |= {"position": position, "slot": slot}
        return _shown(before, edited, edited.slots(level, number), position, said), state

    @answers(app, Output("alternatives", "children"), Input("edit", "data"))
    def alternatives(edit: dict[str, Any] | None) -> Any:
        if edit is None or edit["position"] is None:
            return message("Click a cell of the grid to see which codewords could stand there.")
        edited = EditedImage(run.split(edit["split"]), edit["image"], torch.tensor(edit["codes"]), edit["told"])
        level, number = (int(part) for part in edit["slot"].split("."))
        slot = next(each for each in edited.slots(level, number) if each.position == edit["position"])
        return _alternatives(edited, slot)


def _searched(edited: EditedImage) -> tuple[EditedImage, str]:
    try:
        move = edited.best_move()
    except InputError as reason:  # the codes stay in sight
        return edited, f"{reason}."
    if move is None:
        return edited, "No change of one code lowers the decoded error: search would stop here."
    after, gain = move
    place = int((after.codes.flatten() != edited.codes.flatten()).nonzero()[0])
    return after, f"Search changed the code at place {place}: squared pixel error −{gain:.4g}."


def _shown(
    before: EditedImage, edited: EditedImage, slots: list[Slot], position: int | None, said: str
) -> list[Component]:
    first, now = before.decoded, edited.decoded
    errors = before.error(first), edited.error(now)
    n_changed = int((before.codes != edited.codes).sum())
    label = before.split.class_name(before.image)
    top = max(float((first - before.original).abs().max()), 1e-6)
    pictures = [
        picture(before.original, "image" if label is None else f"image, class {label}", "8rem"),
        picture(first, f"the run's codes: {errors[0]:.4g}", "8rem"),
        picture(now, f"these codes: {errors[1]:.4g}", "8rem"),
        error_map(now, before.original, top, "error of these codes", "8rem"),
    ]
    change = errors[1] - errors[0]
    line = (
        f"Squared pixel error {errors[1]:.4g}, {change:+.4g} against the run's codes; "
        f"{n_changed} of {before.codes.numel()} codes changed."
    )
    return [
        tiles(pictures),
        html.P(line, id="edit-change"),
        *([message(said)] if said else []),
        html.Div([_grid(edited, slots, position, before), *_prior(edited, slots)], className="columns"),
    ]


def _grid(edited: EditedImage, slots: list[Slot], position: int | None, before: EditedImage) -> Component:
    """The codes as buttons, those that were changed marked."""
    codes, originals = edited.codes.flatten(), before.codes.flatten()
    width = 1 + max(slot.col for slot in slots)
    cells = []
    for slot in slots:
        classes = ["code"]
        classes += ["changed"] if codes[slot.position] != originals[slot.position] else []
        classes += ["picked"] if slot.position == position else []
        cells.append(
            html.Button(
                str(int(codes[slot.position])),
                id={"cell": slot.position},
                className=" ".join(classes),
                title=f"row {slot.row}, column {slot.col}",
            )
        )
    style = {"gridTemplateColumns": f"repeat({width}, 1fr)"}
    return html.Div([html.H4("Codes; click one"), html.Div(cells, className="grid", style=style, id="code-grid")])


def _prior(edited: EditedImage, slots: list[Slot]) -> list[Component]:
    missing = edited.run.no_single_codes
    if missing is not None:
        return [html.Div([html.H4("Prior"), message(missing)])]
    bits = edited.prior_bits()
    width = 1 + max(slot.col for slot in slots)
    shown = torch.stack([bits[slot.position] for slot in slots]).reshape(-1, width).numpy()
    figure = go.Figure(
        go.Heatmap(
            z=shown,
            colorscale="Cividis",
            texttemplate="%{z:.1f}",
            hovertemplate="row %{y}, column %{x}: %{z:.2f} bits<extra></extra>",
            colorbar={"thickness": 10},
        )
    )
    figure.update_yaxes(autorange="reversed", scaleanchor="x", constrain="domain", dtick=1).update_xaxes(
        constrain="domain", dtick=1
    )
    title = html.H4(f"Bits by the prior, the codes before given; {float(bits.sum()):.1f} in all")
    return [html.Div([title, chart(figure, "prior-bits", "16rem")])]


def _alternatives(edited: EditedImage, slot: Slot) -> Component:
    codes, errors, images = edited.alternatives(slot, _N_ALTERNATIVES)
    here = int(edited.codes.flatten()[slot.position])
    now = edited.error(edited.decoded)
    probabilities = edited.prior_probabilities(slot.position) if edited.run.no_single_codes is None else None
    shown = []
    for code, error, image in zip(codes.tolist(), errors.tolist(), images, strict=True):
        words = f"{code}: {round(error - now, 6) + 0.0:+.3g}" + (
            "" if probabilities is None else f", p {float(probabilities[code]):.2g}"
        )
        shown.append(
            html.Button(
                picture(image, words, "4.2rem"),
                id={"alternative": code},
                className="alternative chosen" if code == here else "alternative",
            )
        )
    said = (
        f"Row {slot.row}, column {slot.col}: the {len(codes)} codewords of least decoded error of {slot.size}; below "
        "each its code, the change of squared pixel error"
        + ("" if probabilities is None else ", its probability by the prior")
        + ". Click one to put it there."
        + (" It moves what the codes after it stand for, too." if edited.run.codec.sees_neighbours else "")
    )
    return html.Div([html.H3("Another codeword"), message(said), tiles(shown)])
