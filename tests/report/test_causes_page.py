"""The page of causes: self-contained, repeatable, and as the causes say."""

from __future__ import annotations

import base64
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from pliant.causes import REPAIRS, Causes
from pliant.numbers import MINUS
from pliant.plots.base import mechanism
from pliant.probe import Plasticity
from pliant.report import causes_page
from tests.report.test_page import Reader

UNITS, NORM, HEAD = 0.5, 0.3, -0.1  # recovered by each alone, and together their sum
TITLE = "agent <7>.pt"


def made(lost: float = 1.0) -> Causes:
    """Three repairs that do not interact, of a loss against fresh networks that end at 1."""
    targets = np.array([-0.02, 0.0, 0.02])
    gains = (UNITS, NORM, HEAD)
    everyone = [frozenset(c) for size in range(4) for c in combinations(range(3), size)]
    values = {c: 1 + lost * (1 - sum(gains[i] for i in c)) + targets for c in everyone}
    steps = np.arange(0, 101, 10)
    ends = {"now": values[frozenset()], "repaired": values[frozenset(range(3))], "fresh": np.ones(3) + targets / 2}
    curves = {name: np.linspace(np.full(3, 2.3), end, len(steps)).T for name, end in ends.items()}
    probed = Plasticity(("now", "repaired"), "nats", steps, curves, np.full(3, 2.3), dict.fromkeys(curves, 0))
    names = [repair.name for repair in REPAIRS[:3]]
    evidence = {"units": {"dead": 0.75}, "norm growth": {"norm_ratio": 8.0}}
    return Causes(REPAIRS[:3], ("optimizer state",), values, probed, evidence, dict.fromkeys(names, 0.25))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "causes.html"
    causes_page.write(made(), path, TITLE)
    assert causes_page.page(made(), TITLE) == path.read_text()
    return path.read_text()


def test_it_is_well_formed_and_loads_nothing(text: str) -> None:
    for tag, attributes in Reader(text).tags:
        assert tag not in {"script", "iframe", "object", "embed", "base", "form"}
        for name in ("src", "srcset", "xlink:href", "data"):
            assert (attributes.get(name) or "data:").startswith("data:")
        assert (attributes.get("href") or "#").startswith(("#", "data:")) or tag == "a"
    assert "agent &lt;7&gt;.pt" in text
    assert "<7>" not in text


def test_parts_repairs_and_pairs_are_there(text: str) -> None:
    for part in (
        '<p class="verdict fails">lost</p>',
        "Lost 1.00 nats [",
        "<td>46 %</td>",
        "<td>27 %</td>",
        f"<td>{MINUS}0.10 [{MINUS}",
        "what all repairs together leave",
        "<b>Treat units with: LayerNorm(), ReDo(tau=0.0).</b>",
        "Keeping its output layer helps here: drawing it anew costs 0.10 nats.",
        "dead 0.75",
        "norm ratio 8",
        "Nothing to repair: optimizer state",
        "Pairs of repairs",
    ):
        assert part in text, part
    assert text.index("<td>46 %</td>") < text.index("<td>27 %</td>") < text.index(f"<td>{MINUS}0.10 [")


def test_three_lines_say_how_to_read_it_and_the_raw_values_come_along(text: str) -> None:
    reading = text.split('aria-label="how to read this"')[1].split("</ol>")[0]
    assert reading.count("<li>") == 3
    link = next(a for tag, a in Reader(text).tags if tag == "a" and a.get("download") == "causes.csv")
    content = base64.b64decode(str(link["href"]).split(",")[1]).decode()
    assert content == made().to_csv()
    assert "units + norm growth + output layer,2," in content


def test_the_loss_on_the_way_stands_beside_the_final_one(text: str) -> None:
    probed = made().probed
    for name in ("now", "repaired", "fresh"):
        each = probed.initial(name), probed.early(name), probed.final(name), probed.area(name)
        assert "".join(f"<td>{values.mean():.3f}</td>" for values in each) in text
    noted = replace(made(), probed=replace(probed, notes=("budget 100 steps, the first",)))
    assert "Budget 100 steps, the first." in causes_page.page(noted, TITLE)


def test_pictures_come_for_phones_and_desks(text: str) -> None:
    tags = Reader(text).tags
    images = [a for tag, a in tags if tag == "img"]
    assert [a["class"] for a in images] == ["until-560", "from-560 "] * 2
    assert [a["width"] for a in images][1::2] == ["740"] * 2
    assert all(base64.b64decode(str(a["src"]).split(",")[1]).startswith(b"<?xml") for a in images)


@pytest.mark.parametrize(("lost", "kind"), [(0.0, "holds"), (0.115, "inconclusive")])
def test_nothing_is_shared_out_where_nothing_is_known_to_be_lost(lost: float, kind: str) -> None:
    causes = made(lost)
    if kind == "inconclusive":
        causes.values[frozenset()] += np.array([-0.4, 0.0, 0.4])
    text = causes_page.page(causes, TITLE)
    assert f'<p class="verdict {kind}">{causes.verdict}</p>' in text
    assert "What took it" not in text
    assert "Pairs of repairs" not in text
    assert "The refits" in text


def test_estimated_shares_say_so() -> None:
    text = causes_page.page(replace(made(), orders=[[(0, 1, 2), (2, 1, 0)]] * 3), TITLE)
    assert "random orders" in text
    assert "Pairs of repairs" not in text


def test_bars_lead_from_fresh_networks_to_this_one() -> None:
    fall = made().waterfall
    axes = causes_page.waterfall(fall, 740).axes[0]
    edges = [(round(p.get_x(), 6), round(p.get_x() + p.get_width(), 6)) for p in axes.patches]
    assert edges == [(0, 1), (0, 2), (1, 1.5), (1.5, 1.8), (1.8, 2.1), (2.1, 2.0)]  # a bar to the left comes last
    rows = [round(p.get_y() + p.get_height() / 2) for p in axes.patches]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert [names[row] for row in rows] == [
        "fresh networks", "this network", "units", "norm growth", "unexplained", "output layer"
    ]  # fmt: skip
    assert to_hex(axes.patches[2].get_facecolor()) == mechanism("units").lower()
    said = [text.get_text() for text in axes.texts]
    assert said == ["1.00", "2.00", "+0.50 (46 %)", "+0.30 (27 %)", "+0.30 (27 %)", f"{MINUS}0.10"]


def test_curves_are_drawn_by_target_and_on_a_logarithm_where_they_fall_far() -> None:
    axes = causes_page.curves(made(), 740).axes[0]
    assert axes.get_yscale() == "linear"
    assert sum(line.get_linewidth() < 1 for line in axes.lines) == 9
    causes = made()
    causes.probed.curves["fresh"][:, -1] = 1e-3
    assert causes_page.curves(causes, 740).axes[0].get_yscale() == "log"


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    causes_page.write(made(), tmp_path / "a.html", TITLE)
    assert [file.name for file in tmp_path.iterdir()] == ["a.html"]
