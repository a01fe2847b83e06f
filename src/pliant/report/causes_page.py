"""The causes of a loss of plasticity as one HTML page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

from pliant import cite
from pliant.causes import Causes
from pliant.functional.statistics import Interval
from pliant.numbers import MINUS, number, with_interval
from pliant.plots.base import GREY, STEPS
from pliant.plots.figures import STYLE, svg
from pliant.probe.measure import FRESH
from pliant.report.html import template, uri
from pliant.run.files import write_bytes

WIDTHS = (370, 740)  # CSS pixels of the pictures, for phones and desks
PHONE = 560  # widest page, in CSS pixels, that has the first
CURVES = {"now": ("#D55E00", "as it is"), "repaired": ("#0072B2", "all repairs made"), FRESH: ("#000000", "fresh")}
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
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
    shares = causes.shares if causes.verdict == "lost" else {}
    colours = {name: PALETTE[at % len(PALETTE)] for at, name in enumerate(shares)} | {"unexplained": "#b9c0c8"}
    said = {repair.name: repair.mechanism for repair in causes.repairs}
    said["unexplained"] = "what all repairs together leave"
    return template("causes.html.jinja").render(
        title=title,
        kind=KINDS[causes.verdict],
        verdict=causes.verdict,
        gap=with_interval(causes.gap),
        unit=causes.probed.unit,
        probed=causes.probed,
        steps=int(causes.probed.steps[-1]),
        targets=len(causes.probed.baseline),
        bar=_pictures(lambda width: bar(shares, colours, width)) if shares else [],
        curves=_pictures(lambda width: curves(causes, width)),
        shares=[
            {"name": n, "colour": colours[n], "share": percent(s.mean), "ends": ends(s), "mechanism": said[n]}
            for n, s in sorted(shares.items(), key=lambda item: (item[0] == "unexplained", -item[1].mean))
        ],
        repairs=_repairs(causes, shares),
        idle=causes.idle,
        exact=not causes.orders,
        names=[repair.name for repair in causes.repairs],
        interactions=_interactions(causes) if shares else [],
        clipped=any(curve.max() > _ceiling(causes) for curve in causes.probed.curves.values()),
        diverged={CURVES[name][1]: count for name, count in causes.probed.diverged.items() if count},
        references=[cite.entry(key) for key in ("lyle2023", "lyle2024")],
    )


def bar(shares: dict[str, Interval], colours: dict[str, str], width: int) -> Figure:
    """The shares beside each other, from 0 to the right, and to the left where negative."""
    with style.context(["default", STYLE, {"axes.grid": False}]):
        made = Figure(figsize=(width / 96, 78 / 96), layout="constrained")
        made.set_label("shares of the loss")
        axes = made.add_subplot()
        means = {name: share.mean for name, share in shares.items() if math.isfinite(share.mean)}
        span = sum(map(abs, means.values())) or 1.0
        edges = {1: 0.0, -1: 0.0}
        for name, mean in means.items():
            sign = 1 if mean >= 0 else -1
            axes.barh(0, mean, 0.8, left=edges[sign], color=colours[name], edgecolor="white", linewidth=1)
            text = f"{name} {percent(mean)}"
            if abs(mean) / span * width > 7 * len(text):
                light = colours[name] in ("#0072B2", "#009E73", "#D55E00")
                where = edges[sign] + mean / 2
                axes.text(where, 0, text, ha="center", va="center", color="white" if light else "black", fontsize=8)
            edges[sign] += mean
        axes.axvline(0, color=GREY, linewidth=1)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlim(min(edges[-1], 0.0), max(edges[1], 1.0))
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %", decimals=0))
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
        made.legend(loc="outside upper left", ncols=3, handlelength=1.2, columnspacing=1.2)
    return made


def percent(share: float) -> str:
    """A share in percent.

    >>> percent(0.257), percent(-0.1)
    ('26 %', '−10 %')
    """
    return f"{number(100 * share, 0)} %" if math.isfinite(share) else "\N{EN DASH}"


def ends(share: Interval) -> str:
    """The ends of an interval in percent."""
    return f"{percent(share.low)} to {percent(share.high)}" if math.isfinite(share.low) else "no interval"


def _ceiling(causes: Causes) -> float:
    """The largest loss that the axes show: a head grown large may begin far above the constant predictor."""
    return 2 * float(causes.probed.baseline.mean())


def _repairs(causes: Causes, shares: dict[str, Interval]) -> list[dict[str, str]]:
    found = []
    for index, repair in enumerate(causes.repairs):
        alone = causes.alone(index)
        found.append(
            {
                "name": repair.name,
                "mechanism": repair.mechanism,
                "share": percent(shares[repair.name].mean) if shares else "",
                "ends": ends(shares[repair.name]) if shares else "",
                "alone": "\N{EN DASH}" if alone is None else number(alone, 3),
                "moved": number(causes.changed[repair.name], 2),
                "evidence": causes.told(repair.name).replace("-", MINUS),
                "cure": repair.cure,
            }
        )
    return sorted(found, key=lambda row: -shares[row["name"]].mean) if shares else found


def _interactions(causes: Causes) -> list[list[str]]:
    """One row a repair; nothing beside itself, and each pair once, below the diagonal."""
    matrix = causes.interactions
    if matrix is None:
        return []
    return [[number(float(matrix[i, j]), 3) if j < i else "" for j in range(i + 1)] for i in range(len(matrix))]


def _pictures(draw: Any) -> list[dict[str, Any]]:
    """A picture for narrow pages and one for wide ones, which comes last."""
    found = []
    for width, until in zip(WIDTHS, (PHONE, None), strict=True):
        drawn = draw(width)
        size = [round(96 * inches) for inches in drawn.get_size_inches()]
        found.append({"uri": uri("image/svg+xml", svg(drawn)), "width": size[0], "height": size[1], "until": until})
    return found
