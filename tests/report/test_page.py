"""The page: self-contained, repeatable, safe, and silent about the machine it was made on."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib import colormaps
from matplotlib.colors import to_hex

from pliant.experiment import Column
from pliant.plots import Cells
from pliant.report.page import _csv, page
from pliant.results import Results
from pliant.run.identity import definition
from tests.report.stores import unwritten
from tests.report.synthetic import EXPERIMENT, RUN, SETUP, Settings, last, results, without_tasks

VOID = {"meta", "link", "br", "img", "source", "wbr"}


class Reader(HTMLParser):
    """Tags with their attributes; fails where a tag is not closed."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def made(root: Path, r: Results | None = None, settings: Settings | None = None, **more: Any) -> str:
    run = unwritten(root, r or results(), settings, **more)
    checked = run.checked() if set(run.results.arms) == set(run.setup.arms) else []
    return page(run, checked)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("a run")
    how = {"pack": [0, 1, 2], "mode": "vmap", "threads": 1, "total_seconds": 4321.0}
    arms = EXPERIMENT.setup(Settings()).arms
    cells = {(name, seed): {**how, "definition": definition(arm)} for name, arm in arms.items() for seed in range(3)}
    written = made(root, cells=cells)
    assert made(root, cells=cells) == written
    assert str(root) not in written
    return written


def test_it_is_well_formed_and_loads_nothing(text: str) -> None:
    for tag, attributes in Reader(text).tags:
        assert tag not in {"script", "iframe", "object", "embed", "base", "form"}
        for name in ("src", "srcset", "xlink:href", "data", "action", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:")
        href = attributes.get("href") or "#"
        assert href.startswith(("#", "data:")) or tag == "a"
        assert not any(name.startswith("on") for name in attributes)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_what_was_given_is_escaped(text: str) -> None:
    for raw in ("<script", "<numbers>", "<i>something", "L2 <b>&"):
        assert raw not in text
    assert "Hand-made &lt;numbers&gt; &amp; more" in text
    assert "&lt;script&gt;alert(1)" in text


def test_everything_is_there(text: str) -> None:
    for part in (
        "P1 figure 0",
        "Lyle et al. 2023",
        "did &lt;i&gt;something",
        "accu&shy;racy",
        "first task",
        "0.72 <small>± 0.05</small>",
        "precondition not met: nothing reaches 2",
        "needs &gt; 0.99 (our threshold)",
        "nothing reaches 2: <b>not met</b>",
        "abc1234",
        "1 h 12 min",
        "pliant run made/up --tier laptop --seeds 3\npliant report made/up --tier laptop\n"[:-1],
        "@inproceedings{lyle2023,",
        "L2(strength=0.5",
    ):
        assert part in text, part
    for verdict in ("✓</b> holds", "\N{MULTIPLICATION SIGN}</b> fails", "?</b> inconclusive"):
        assert verdict in text


def test_the_figure_comes_in_the_widths_a_phone_and_a_desk_need(text: str) -> None:
    tags = Reader(text).tags
    narrow, picture = [a for tag, a in tags if tag == "img"]
    assert (narrow["class"], picture["class"]) == ("until-560", "from-560 ")
    assert int(str(narrow["width"])) < int(str(picture["width"]))
    assert re.search(r"@media print \{.*\[class\*=\"until-\"\] \{ display: none; \}", text, flags=re.DOTALL)
    assert base64.b64decode(str(picture["src"]).split(",")[1]).startswith(b"<?xml")
    assert "accuracy, norm" in str(picture["alt"])


def test_the_numbers_can_be_taken_along(text: str) -> None:
    (link,) = [a for _, a in Reader(text).tags if "download" in a]
    assert link["download"] == "made-up-laptop.csv"
    rows = base64.b64decode(str(link["href"]).split(",")[1]).decode().splitlines()
    assert rows[0] == "arm,seed,task,step,accuracy,norm"
    assert len(rows) == 1 + 2 * 3 * 5
    assert rows[1].startswith("none,0,1,10,0.")


def test_data_from_a_file_do_not_show_where_it_lies(tmp_path: Path) -> None:
    settings = Settings(data="/home/someone & co/secret/pixels.npz", l2=0.25)
    written = made(tmp_path, settings=settings)
    assert "someone" not in written
    assert "secret" not in written
    assert "--set data=pixels.npz --set l2=0.25" in written
    assert "changed; the laptop tier has 0.5" in written


def test_some_arms_only(tmp_path: Path) -> None:
    only = Results({key: table for key, table in results().tables.items() if key[0] == "l2"})
    written = made(tmp_path, only, asked=RUN | {"arms": ["l2"]})
    Reader(written)
    assert "1 of 2 arms were not run: no intervention." in written
    assert "did &lt;i&gt;something" in written, "of the arm that was run"
    assert "--arms l2" in written
    assert 'id="claims"' not in written


@pytest.mark.parametrize(
    "r", [results(seeds=1), results(diverged={("l2", 1): 27, ("none", 0): 0})], ids=["1", "diverged"]
)
def test_one_seed_and_diverged_seeds(tmp_path: Path, r: Results) -> None:
    written = made(tmp_path, r)
    Reader(written)
    assert "nan" not in re.sub(r"data:[^\"]*", "", written).lower()
    assert ("diverged at step 27" in written) == (len(r.seeds) > 1)


def test_no_columns_no_sentences_no_deviations(tmp_path: Path) -> None:
    bare = replace(EXPERIMENT, sentences=None, figure="our own")
    setup = replace(SETUP, table=(), deviations=(), claims=())
    bare = replace(bare, setup=lambda settings: setup)
    written = page(unwritten(tmp_path, results(), experiment=bare), [])
    Reader(written)
    assert "What happened" not in written
    assert "In the end" not in written


def test_trials_without_tasks_have_a_page_and_numbers_where_the_table_reads(tmp_path: Path) -> None:
    setup = replace(SETUP, plots=SETUP.plots[1:], table=(Column("accuracy", "accuracy"),), claims=())
    made = without_tasks(results())
    Reader(page(unwritten(tmp_path, made, experiment=replace(EXPERIMENT, setup=lambda settings: setup)), []))
    header, *lines = _csv(setup, made).splitlines()
    assert header == "arm,seed,task,step,accuracy,norm"
    assert len(lines) == 2 * 3 * 5  # of all steps, those at which accuracy was measured
    assert lines[0].startswith("none,0,,10,0.49,")


def test_many_missing_arms_are_counted_rather_than_listed(tmp_path: Path) -> None:
    setup = replace(
        SETUP,
        arms=SETUP.arms | {f"more {i}": replace(SETUP.arms["l2"], label=f"more {i}") for i in range(13)},
        claims=(),
    )
    run = unwritten(tmp_path, results(), experiment=replace(EXPERIMENT, sentences=None, setup=lambda settings: setup))
    written = page(run, [])
    assert "13 of 15 arms were not run." in written


def test_a_map_is_a_table_in_its_colours_that_a_script_sorts(tmp_path: Path) -> None:
    rows = {"nothing": ("none", None), "L2OfAStrength(0.5)": ("l2", "none"), "Lost": ("gone", None)}
    paper, groups = {"nothing": ("0.3", None)}, {"nothing": "", "Lost": "some", "L2OfAStrength(0.5)": "some"}
    cells = Cells("accuracy", "accuracy", ("alone", "with\nlayer norm"), rows, (0.0, 0.8), paper=paper, groups=groups)
    setup = replace(SETUP, plots=(cells, *SETUP.plots))
    written = page(unwritten(tmp_path, results(), experiment=replace(EXPERIMENT, setup=lambda settings: setup)), [])
    tags = Reader(written).tags
    assert [a["class"] for tag, a in tags if tag == "img"] == ["until-560", "from-560 "]  # of the other plots
    assert "L2<wbr>Of<wbr>AStrength<wbr>(0.5)" in written
    assert (
        written.index(">nothing<") < written.index(">some</th>") < written.index(">L2<wbr>") < written.index(">Lost<")
    )
    means = [last(results(), arm).mean() for arm in ("none", "l2")]
    shown = [a for tag, a in tags if tag == "td" and "data-sort" in a]
    assert [a["data-sort"] for a in shown] == [f"{means[0]:.6g}", "", f"{means[1]:.6g}", f"{means[0]:.6g}", "", ""]
    assert shown[0]["style"] == f"background: {to_hex(colormaps['cividis'](means[0] / 0.8))}; color: #000"
    assert ["style" in a for a in shown] == [True, False, True, True, False, False]
    assert '<small class="paper">paper 0.3</small>' in written
    (script,) = re.findall(r"<script>(.*?)</script>", written, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in written


def test_arms_may_measure_different_things(tmp_path: Path) -> None:
    """One learns numbers and has no accuracy, say: its cells stay empty."""
    r = results()
    tables = {key: {n: v for n, v in t.items() if key[0] != "l2" or n != "norm"} for key, t in r.tables.items()}
    lines = _csv(SETUP, Results(tables)).splitlines()
    assert lines[0].split(",")[4:] == ["accuracy", "norm"]
    ends = {line.split(",")[0]: line.split(",")[5] for line in lines[1:]}
    assert ends["l2"] == ""
    assert all(float(value) > 0 for arm, value in ends.items() if arm != "l2")
