"""Which cure when: rows, from which `cures_when.md` has its list and its picture.

Healthy readings come from the diagnostics, costs from what was measured, evidence from the runs in `results/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath

from pliant.diagnostics import DeadUnits, LinearizedUnits, ParameterNorm
from pliant.experiment import experiments
from pliant.functional.statistics import Interval, interval
from pliant.plots.base import COLOURS, GREY
from pliant.plots.figures import STYLE, svg
from pliant.report.cookbook import entries
from pliant.report.stored import Stored, opened

RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True)
class Evidence:
    """What a run measured without a cure and with it.

    Args:
        run: the experiment.
        what: the number, in words.
        column: the number.
        without: the arm without the cure.
        cured: the arm with it.
        gain: whether it is the increase since the first measurement, which should be small, else the final value.
    """

    run: str
    what: str
    column: str
    without: str
    cured: str
    gain: bool = False

    def intervals(self) -> tuple[Interval, Interval]:
        """Means over seeds without and with, and their 95 % intervals."""
        results = kept(self.run).results
        values = [results.last(arm, self.column) for arm in (self.without, self.cured)]
        if self.gain:
            first = [results.first(arm, self.column) for arm in (self.without, self.cured)]
            values = [last - begun for last, begun in zip(values, first, strict=True)]
        before, after = (interval(np.asarray(each, float)) for each in values)
        return before, after

    def told(self) -> str:
        """In words."""
        before, after = self.intervals()
        return f"{self.what} {before.mean:.2f}, with it {after.mean:.2f} (`{self.run}`)"


@dataclass(frozen=True)
class Row:
    """One symptom, how it is confirmed, and its cure.

    Args:
        symptom: as one sees it.
        number: that confirms it.
        healthy: how networks read that were never trained.
        recipe: the line, or two of which one is chosen.
        costs: names of interventions whose cost a step the recipe has; empty where it only acts at events, None where
            it was not measured.
        unless: when it is the wrong cure.
        evidence: what a run says.
    """

    symptom: str
    number: str
    healthy: str
    recipe: tuple[str, ...]
    costs: tuple[str, ...] | None
    unless: str
    evidence: Evidence

    def cost(self) -> str:
        """Time of a step relative to one without, on an MLP and a CNN."""
        if self.costs is None:
            return "not measured"
        found = {entry.name: entry for entry in entries()}
        told = [f"{name} {found[name].mlp:.2f}x, CNN {found[name].cnn:.2f}x" for name in self.costs]
        return "; ".join(told) or "nothing between events"


def _healthy(kind: type) -> str:
    """The first reading in a diagnostic's `healthy`, with the name of the monitor's reference."""
    name, _, value = kind.healthy.partition(",")[0].partition(" ")
    return f"{value} (`fresh/{name}`)"


STACKED = "Chain(LayerNorm(), L2(1e-4))"
ROWS = (
    Row(
        "cause unknown, or several",
        "`pliant.plasticity`: loss against fresh networks",
        "0 within its interval",
        (STACKED,),
        ("LayerNorm", "L2"),
        "nothing was lost; in C51, L2 of 1e-5 and more cost return (P2)",
        Evidence("lyle2024/swiss_cheese", "accuracy after 30 relabellings", "accuracy", "none", "both"),
    ),
    Row(
        "units are silent",
        "`dead`",
        _healthy(DeadUnits),
        ("LayerNorm()", "ReDo(tau=0.025, every=1_000)"),
        ("LayerNorm", "ReDo"),
        "the network is trained already: only ReDo acts then; in a residual stream it resets a part of each unit",
        Evidence("toolbox/cures", "accuracy after 10 relabellings, both", "accuracy", "none", "ln+redo"),
    ),
    Row(
        "units act as linear ones",
        "`linearized`",
        _healthy(LinearizedUnits),
        ("LayerNorm()",),
        ("LayerNorm",),
        "the network is trained already: layer norm is built in before",
        Evidence(
            "lyle2024/linearized", "share linearized, leaky ReLU", "linearized", "leaky_relu_reset",
            "leaky_relu_reset_ln",
        ),
    ),
    Row(
        "weights grow",
        "`norm_ratio`",
        _healthy(ParameterNorm),
        ("L2(1e-4)", 'NormalizeAndProject(scales="project")'),
        ("L2", "NormalizeAndProject"),
        "C51, as above; without layer norm, units die nevertheless",
        Evidence(
            "lyle2024/swiss_cheese", "norm ratio after 30 relabellings, layer norm", "norm_ratio", "layer_norm", "both"
        ),
    ),
    Row(
        "targets are large, or drift",
        "target scale in `pliant.disentangle`",
        "0",
        ("pliant.heads.HLGauss(-100.0, 100.0, 201)",),
        None,
        "classification; values that begin at an end of the bins, not in their middle, lose more",
        Evidence(
            "lyle2024/bandit", "rise of the probe loss, LN and L2, squared error", "probe_loss",
            "gamma_0.99_scalar_both", "middle_smoothed", gain=True,
        ),
    ),
    Row(
        "learning stalls at each switch",
        "optimizer state in `pliant.disentangle`",
        "0",
        ("OptimizerReset()", "AdamRel()"),
        (),
        "the only cure: alone it does not keep plasticity (P1, and here)",
        Evidence("toolbox/cures", "accuracy after 10 relabellings, the first", "accuracy", "none", "optimizer_reset"),
    ),
    Row(
        "all else failed",
        "`pliant.plasticity`, again",
        "0 within its interval",
        ("ShrinkAndPerturb(0.8, 0.2)", 'Reset("last")'),
        (),
        "what was learned must stay",
        Evidence("toolbox/cures", "accuracy after 10 relabellings, the first", "accuracy", "none", "sp"),
    ),
)  # fmt: skip


@cache
def kept(id: str) -> Stored:
    """The kept run of an experiment that has its tier's settings."""
    runs = [opened(path, experiments()) for path in sorted((RESULTS / id).iterdir())]
    return next(run for run in runs if not run.changes())


def listed() -> str:
    """The rows as a list in Markdown: seven columns fit no page."""
    lines = []
    for row in ROWS:
        lines += [
            f"- **{row.symptom}:** {row.number}; healthy: {row.healthy}",
            f"  - {' or '.join(f'`{line}`' for line in row.recipe)}; a step costs: {row.cost()}",
            f"  - not when: {row.unless}",
            f"  - measured: {row.evidence.told()}",
        ]
    return "\n".join(lines) + "\n"


def picture(width: int) -> str:
    """The rows as SVG, for a page of 740 CSS pixels or for a phone's 370.

    Args:
        width: in CSS pixels; below 500 the parts of a row stand below each other.
    """
    wide = width >= 500
    with style.context(["default", STYLE]):
        height = _draw(Figure(figsize=(width / 96, 1)), width, 100, wide)  # to learn how high it becomes
        made = Figure(figsize=(width / 96, height / 96))
        made.set_label("Which cure when")
        _draw(made, width, height, wide)
        return svg(made)


def _draw(figure: Figure, width: int, height: float, wide: bool) -> float:
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    at = _write(
        axes, 10, 8, width - 20, "Lost against fresh networks? If not, nothing needs a cure.", 14, weight="bold"
    )
    at += 8
    for row in ROWS:
        axes.plot([10, width - 10], [at, at], color="#d5d8dc", lw=0.8)
        parts = (_symptom, _recipe, _evidence)
        if wide:
            thirds = ((10, 205), (230, 265), (510, 220))
            at = max(part(axes, row, x, at + 9, w) for part, (x, w) in zip(parts, thirds, strict=True)) + 9
        else:
            at += 9
            for part in parts:
                at = part(axes, row, 10, at, width - 20) + 7
    return at


def _symptom(axes: Axes, row: Row, x: float, y: float, width: float) -> float:
    y = _write(axes, x, y, width, row.symptom, 13, weight="bold")
    y = _write(axes, x, y + 2, width, row.number, 12, color=COLOURS[1])
    return _write(axes, x, y, width, f"healthy: {row.healthy}", 11, color=GREY)


def _recipe(axes: Axes, row: Row, x: float, y: float, width: float) -> float:
    for line in row.recipe:
        end = y + 19 * len(_wrapped(line, width - 12, _font(11, family="DejaVu Sans Mono")))
        axes.add_patch(Rectangle((x, y), width, end - y, facecolor="#eef3f7", lw=0))
        _write(axes, x + 6, y + 3, width - 12, line, 11, family="DejaVu Sans Mono")
        y = end + 3
    y = _write(axes, x, y, width, f"costs a step: {row.cost()}", 11, color=GREY)
    return _write(axes, x, y, width, f"not when: {row.unless}", 11, color="#a84300")


def _evidence(axes: Axes, row: Row, x: float, y: float, width: float) -> float:
    y = _write(axes, x, y, width, f"{row.evidence.what}:", 11, color=GREY) + 3
    told, left, right = row.evidence.intervals(), x + 58, x + width - 38
    scale = (right - left) / max(1.0 if row.evidence.column == "accuracy" else 0.0, *(each.high for each in told))
    for name, each, colour in zip(("without", "with it"), told, ("#8a9099", COLOURS[1]), strict=True):
        _write(axes, x, y, 58, name, 11)
        axes.add_patch(Rectangle((left, y + 2), max(scale * each.mean, 0), 10, facecolor=colour, lw=0))
        axes.plot([left + scale * max(end, 0) for end in each[1:]], [y + 7, y + 7], color="black", lw=1)
        _write(axes, left + scale * max(each.high, 0) + 4, y, 60, f"{each.mean:.2f}", 11)
        y += 16
    return _write(axes, x, y, width, row.evidence.run, 10, color=GREY)


def _write(axes: Axes, x: float, y: float, width: float, text: str, size: float, **look: str) -> float:
    """Text below `y`, as wide as it may be; returns where it ends."""
    color, font = look.pop("color", "black"), _font(size, **look)
    for line in _wrapped(text.replace("`", ""), width, font):
        axes.text(x, y + size, line, fontproperties=font, color=color, va="baseline")
        y += 1.35 * size
    return y


def _font(size: float, **look: str) -> FontProperties:
    return FontProperties(size=0.75 * size, **({"family": "DejaVu Sans"} | look))  # type: ignore[arg-type]


def _wrapped(text: str, width: float, font: FontProperties) -> Sequence[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and sum(_advance(letter, font) for letter in longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


@cache
def _advance(letter: str, font: FontProperties) -> float:
    """How wide a letter is, in CSS pixels: between two others, as a space alone has no ink."""
    pair, three = (TextPath((0, 0), text, prop=font).get_extents().width for text in ("xx", f"x{letter}x"))
    return (three - pair) / 0.75
