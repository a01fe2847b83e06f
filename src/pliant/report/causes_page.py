"""The causes of a loss of plasticity as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from pliant import cite
from pliant.causes import Causes
from pliant.numbers import MINUS, number
from pliant.plots.base import GREY, STEPS, legend, mechanism
from pliant.plots.figures import STYLE, svg
from pliant.plots.waterfalls import ROW, draw
from pliant.probe.result import FRESH
from pliant.report.html import template, uri
from pliant.run.files import write_bytes
from pliant.waterfall import UNEXPLAINED, Waterfall

WIDTHS = (370, 740)  # CSS pixels of the pictures, for phones and desks
PHONE = 560  # widest page, in CSS pixels, that has the first
CURVES = {
    "now": ("#D55E00", "this network"),
    "repaired": ("#0072B2", "all repairs made"),
    FRESH: ("#000000", "fresh networks"),
}
MEANS = {
    "units": "dead and linearized units",
    "preactivation shift": "preactivations that have moved to one side",
    "norm growth": "weights that have grown",
    "weight spectrum": "weights of which one direction is all",
    "hidden schedule": "weights that have grown before a normaliser: smaller steps of the same function",
    "normaliser scales": "scales and offsets of normalisers that have shrunk or grown",
    "logit scale": "outputs that vary more than those of new networks",
    "output layer": "the output layer as it is now",
    "target scale": "a mean prediction far from 0",
    "optimizer state": "moments of earlier gradients",
    UNEXPLAINED: "what all repairs together leave; below 0, what it has learned helps",
}
KINDS = {"lost": "fails", "healthy": "holds", "cannot tell": "inconclusive"}  # as the style sheet calls them


def write(causes: Causes, path: Path, title: str) -> None:
    """Writes the page, whole or not at all; it is one file that loads nothing.

    Args:
        causes: what `pliant.disentangle` returned.
        path: of the file.
        title: what was measured, as its reader calls it.
    """
    write_bytes(path, page(causes, title).encode())


def page(causes: Causes, title: str) -> str:
    """The page as HTML: the same causes give the same bytes."""
    lost, fall = causes.verdict == "lost", causes.waterfall
    return template("causes.html.jinja").render(
        title=title,
        kind=KINDS[causes.verdict],
        verdict=causes.verdict,
        conclusion=causes.conclusion,
        remarks=causes.remarks(),
        todo=causes.todo(),
        unit=causes.probed.unit,
        probed=causes.probed,
        early=int(causes.probed.steps[1]),
        steps=int(causes.probed.steps[-1]),
        targets=len(causes.probed.baseline),
        waterfall=_pictures(lambda width: waterfall(fall, width)) if lost else [],
        curves=_pictures(lambda width: curves(causes, width)),
        parts=_parts(fall) if lost else [],
        pace=_pace(causes),
        repairs=_repairs(causes, fall if lost else None),
        idle=causes.idle,
        exact=not causes.orders,
        names=[repair.name for repair in causes.repairs],
        interactions=_interactions(causes) if lost else [],
        clipped=any(curve.max() > _ceiling(causes) for curve in causes.probed.curves.values()),
        diverged={CURVES[name][1]: count for name, count in causes.probed.diverged.items() if count},
        csv=uri("text/csv", causes.to_csv()),
        references=[cite.entry(key) for key in ("lyle2023", "lyle2024")],
    )


def waterfall(fall: Waterfall, width: int) -> Figure:
    """What leads from the loss of fresh networks to that of this one, a bar a mechanism."""
    bars = fall.bars
    most = max(fall.fresh, fall.now, *(end for bar in bars for end in bar[1:3]))
    with style.context(["default", STYLE]):
        made = Figure(figsize=(width / 96, ((len(bars) + 2) * ROW * 1.3 + 44) / 96), layout="constrained")
        made.set_label("what each mechanism adds to the loss")
        axes = made.add_subplot()
        draw(axes, fall, bars, most)
        axes.set_xlabel(f"final loss [{fall.unit}]")
    return made


def curves(causes: Causes, width: int) -> Figure:
    """The loss over the refits, a thin line a target and a thick one for the mean; the constant predictor dashed."""
    probed = causes.probed
    with style.context(["default", STYLE]):
        made = Figure(figsize=(width / 96, 300 / 96), layout="constrained")
        made.set_label("refits")
        axes = made.add_subplot()
        for name, (colour, label) in CURVES.items():
            lines = probed.curves[name]
            axes.plot(probed.steps, lines.T, color=colour, linewidth=0.7, alpha=0.4)
            axes.plot(probed.steps, lines.mean(0), color=colour, linewidth=2.4, label=label)
        every = np.concatenate(list(probed.curves.values()))
        shown = np.clip(every[every > 0], None, _ceiling(causes))
        low, high = (float(shown.min()), float(shown.max())) if len(shown) else (0.0, 1.0)
        if low > 0 and high > 10 * low:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(numticks=6))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.set_ylim(low / 1.3, high * 1.3)
        else:
            bottom = low - 0.3 * (high - low) if 3 * low > high else 0.0
            axes.set_ylim(max(0.0, bottom), high + 0.08 * (high - bottom))
        axes.axhline(float(probed.baseline.mean()), color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1.9)
        axes.annotate(
            "constant predictor", (1, float(probed.baseline.mean())), (0, 2), ("axes fraction", "data"),
            "offset points", ha="right", color=GREY, fontsize=8,
        )  # fmt: skip
        axes.set_xlim(0, probed.steps[-1])
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS, integer=True))
        axes.set_xlabel("optimizer step of the refit")
        axes.set_ylabel(f"loss [{probed.unit}]")
        legend(made, *axes.get_legend_handles_labels())  # type: ignore[arg-type]
    return made


def _ceiling(causes: Causes) -> float:
    """The largest loss that the axes show: a head grown large may begin far above the constant predictor."""
    return 2 * float(causes.probed.baseline.mean())


def _parts(fall: Waterfall) -> list[dict[str, str]]:
    """A row a bar, in their order."""
    return [
        {
            "name": bar.name,
            "colour": mechanism(bar.name),
            "part": fall.said(bar.part).replace("-", MINUS),
            "share": f"{fall.percent[bar.name]} %" if bar.name in fall.percent else "",
            "means": MEANS.get(bar.name, ""),
        }
        for bar in fall.bars
    ]


def _pace(causes: Causes) -> list[dict[str, Any]]:
    """Loss at the start, after a tenth of the budget and at its end, and the area, of each curve."""
    probed = causes.probed
    return [
        {
            "name": label,
            "colour": colour,
            "numbers": [
                number(values.mean(), 3)
                for values in (probed.initial(n), probed.early(n), probed.final(n), probed.area(n))
            ],
        }
        for n, (colour, label) in CURVES.items()
    ]


def _repairs(causes: Causes, fall: Waterfall | None) -> list[dict[str, str]]:
    """A row a repair, that of the largest part first where something was lost."""
    order = [bar.name for bar in fall.bars] if fall else [repair.name for repair in causes.repairs]
    found = []
    for index, repair in sorted(enumerate(causes.repairs), key=lambda item: order.index(item[1].name)):
        alone = causes.alone(index)
        found.append(
            {
                "name": repair.name,
                "alone": "\N{EN DASH}" if alone is None else number(alone, 3),
                "moved": number(causes.changed[repair.name], 2),
                "evidence": causes.told(repair.name).replace("-", MINUS),
                "cure": repair.cure,
            }
        )
    return found


def _interactions(causes: Causes) -> list[list[str]]:
    """One row a repair; nothing beside itself, and each pair once, below the diagonal."""
    if causes.interactions is None:
        return []
    matrix = causes.interactions.mean(-1)
    return [[number(float(matrix[i, j]), 3) if j < i else "" for j in range(i + 1)] for i in range(len(matrix))]


def _pictures(draw: Any) -> list[dict[str, Any]]:
    """A picture for narrow pages and one for wide ones, which comes last."""
    found = []
    for width, until in zip(WIDTHS, (PHONE, None), strict=True):
        drawn = draw(width)
        size = [round(96 * inches) for inches in drawn.get_size_inches()]
        found.append({"uri": uri("image/svg+xml", svg(drawn)), "width": size[0], "height": size[1], "until": until})
    return found
