"""Bars that sum up, whole per cents, and the order in which they come."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.functional.statistics import Interval
from pliant.plots.base import COLOURS, MECHANISMS, OTHERS, mechanism
from pliant.waterfall import Waterfall


def fall(*means, fresh=0.5):
    names = ["units", "norm growth", "output layer", "target scale", "optimizer state", "unexplained"]
    parts = {name: Interval(m, m - 0.01, m + 0.01) for name, m in zip(names[-len(means) :], means, strict=True)}
    return Waterfall(fresh, parts, "nats")


@given(st.lists(st.floats(-5, 5, allow_subnormal=False), min_size=1, max_size=6), st.floats(0, 3))
def test_bars_sum_and_per_cents_are_whole(means, fresh):
    found = fall(*means, fresh=fresh)
    assert found.now == pytest.approx(fresh + sum(means), abs=1e-9)
    assert found.bars[-1].end == pytest.approx(found.now, abs=1e-9)
    for before, after in zip(found.bars, found.bars[1:], strict=False):
        assert after.start == before.end
    up = {name: part.mean for name, part in found.parts.items() if part.mean > 0}
    assert sum(found.percent.values()) == (100 if up else 0)
    for name, percent in found.percent.items():
        assert abs(percent - 100 * up[name] / sum(up.values())) < 1 + 1e-9
    widths = {width: max(map(len, found.lines(width))) for width in (60, 80)}
    assert all(most <= width for width, most in widths.items())


def test_what_adds_comes_first_the_unexplained_after_it_and_what_helps_last():
    found = fall(0.1, 0.5, -0.3, 0.2, -0.1, 0.9)
    assert [bar.name for bar in found.bars] == [
        "norm growth", "target scale", "units", "unexplained", "optimizer state", "output layer"
    ]  # fmt: skip
    assert found.percent == {"norm growth": 29, "target scale": 12, "units": 6, "unexplained": 53}
    lines = found.lines(80)
    assert lines[0].split() == ["fresh", "networks", "0.50"]
    assert lines[1].startswith("norm growth     +0.50 [+0.49, +0.51]  29 %  ####")
    assert lines[-2].startswith("output layer    -0.30 [-0.31, -0.29]        ----")
    assert lines[-1].split() == ["this", "network", "1.80"]


def test_a_mechanism_has_one_colour_which_is_no_arms():
    """Apart from every arm in CIE Lab, and from each other."""
    every = [*MECHANISMS.values(), *OTHERS]
    labs = {colour: _lab(colour) for colour in (*every, *COLOURS)}
    for colour in every:
        assert min(np.linalg.norm(labs[colour] - labs[arm]) for arm in COLOURS) > 25, colour
    for i, colour in enumerate(MECHANISMS.values()):
        for other in list(MECHANISMS.values())[:i]:
            assert np.linalg.norm(labs[colour] - labs[other]) > 25, (colour, other)
    assert mechanism("one of my own") == mechanism("one of my own")


def _lab(colour):
    """CIE 1976 L*a*b* of an sRGB colour, written out."""
    rgb = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = to_xyz @ linear / (0.9505, 1.0, 1.089)
    fx, fy, fz = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])
