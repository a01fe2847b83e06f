"""The light listing, and the index page: complete, repeatable, self-contained, readable without its script."""

import base64
import hashlib
import io
import re
import subprocess
import sys
from html import unescape
from io import StringIO
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from pliant.report.index import index, write_index
from pliant.report.keep import keep
from pliant.report.listing import apart, print_runs, progress, runs
from pliant.run.files import write_json
from tests.report.stores import KNOWN, run, written
from tests.report.synthetic import Settings, last, results
from tests.report.test_page import Reader


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a whole run, a changed one, and runs that are incomplete, damaged or of another version."""
    root = tmp_path_factory.mktemp("some store")
    (written(root, dated="2026-02-03T23:59:59+00:00") / "report.html").write_text("a page")
    written(root, Settings(l2=0.25, data="/home/someone/pixels.npz"))
    written(root, Settings(l2=0.125), missing=[("l2", 2), ("none", 2), ("l2", 0)])
    written(root, Settings(hidden=(4,)), arms=["l2"])
    written(root, tier="smoke")
    altered = written(root, Settings(l2=2.0)) / "arm=l2/seed=0/metrics.parquet"
    altered.write_bytes(altered.read_bytes()[:-1])
    (written(root, Settings(l2=3.0)) / "settings.json").write_text("{")
    (written(root, Settings(l2=4.0)) / "run.json").unlink()
    gone = root / "gone/away/laptop-0"
    gone.mkdir(parents=True)
    write_json(gone / "settings.json", {"experiment": "gone/away", "tier": "laptop", "settings": {"lr": 0.5}})
    write_json(gone / "run.json", {"arms": ["a"], "seeds": [0], "environment": {}})
    (root / ".hidden").mkdir()
    (root / ".hidden" / "settings.json").write_text("{}")
    (root / "empty").mkdir()
    return root


def test_the_listing_has_every_run_and_what_is_wrong_with_it(root: Path) -> None:
    listed = runs(root)
    assert [(run.experiment, run.tier) for run in listed] == [
        ("gone/away", "laptop"), *[("made/up", "laptop")] * 7, ("made/up", "smoke"),
    ]  # fmt: skip
    partial = next(run for run in listed if run.settings.get("l2") == 0.125)
    assert (partial.done, partial.complete_seeds, progress(partial)) == (3, 1, "1 of 3")
    assert sorted(run.problem for run in listed if run.problem) == ["not started", "settings.json is damaged"]
    whole = next(run for run in listed if run.settings.get("l2") == 0.5 and run.tier == "smoke")
    assert (whole.done, progress(whole), whole.commit) == (6, "3", "abc1234")
    assert runs(root / "nowhere") == []


def test_runs_are_told_apart_by_the_settings_that_differ(root: Path) -> None:
    listed = runs(root)
    said = {run.path: differs for run, differs in zip(listed, apart(listed), strict=True)}
    assert said.pop("gone/away/laptop-0") == {}
    assert {"data": "pixels.npz", "hidden": "8,8", "l2": "0.25"} in said.values()
    assert [differs for path, differs in said.items() if "smoke" in path] == [{}]


def test_the_listing_fits_a_terminal(root: Path) -> None:
    console = Console(file=StringIO(), width=80)
    print_runs(console, runs(root))
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    for part in ("9 runs of 2 experiments", "settings.json is damaged", "l2=0.125", "1 of 3"):
        assert part in shown


def test_the_listing_is_light() -> None:
    heavy = {"torch", "scipy", "matplotlib", "numpy", "pyarrow", "jinja2"}
    code = f"import sys, pliant.report.listing; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def text(root: Path) -> str:
    made = index(root, KNOWN)
    assert index(root, KNOWN) == made
    return made


def rows(text: str) -> dict[str, str]:
    """The rows of the tables without tags, by the run's name."""
    found = re.findall(r"<tr>\n(.*?)</tr>", text, re.DOTALL)
    plain = [unescape(" ".join(re.sub(r"<[^>]*>", " ", row).split())) for row in found]
    return {row.split()[0]: row for row in plain}


def test_the_index_says_of_every_run_how_far_it_is(text: str) -> None:
    by = rows(text)
    assert len(by) == 9
    tally = "✓ 1 hold \N{MULTIPLICATION SIGN} 1 fail ? 1 inconclusive"
    gained = last(results(), "l2") - last(results(), "none")  # of the first claim; 4.303 is Student's t for three seeds
    mean, half = gained.mean(), 4.303 * gained.std(ddof=1) / 3**0.5
    headline = f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}] {tally}"
    (whole,) = [row for row in by.values() if row.startswith("laptop") and row[16:].startswith(headline)]
    assert whole.endswith("2026-02-03 3 all 2 digits")
    assert sum("\N{EN DASH} 3 all 2 digits" in row for row in by.values()) == 2  # smoke and the altered one: no date
    assert "Headline, the number of its first claim: L2 ends above nothing." in text
    partial, damaged = "l2=0.125 not complete yet \N{EN DASH} 1 of 3", "settings.json is damaged"
    for part in (partial, damaged, "l2=2.0", "checksum does not fit", "only l2", "not started", "unknown experiment"):
        assert sum(part in row for row in by.values()) == 1, part
    assert "9 runs of 2 experiments" in text
    assert "2 are not complete" in text


def test_the_largest_tier_and_the_fewest_changes_come_first(text: str) -> None:
    order = [row for row in rows(text).values() if "✓" in row or "not complete" in row]
    assert [re.findall(r"(\w+)-\w{8}", row)[0] for row in order] == ["laptop", "laptop", "laptop", "smoke"]
    assert "=" not in order[0]


def test_a_run_links_to_its_page_where_there_is_one(root: Path, text: str) -> None:
    links = [str(a["href"]) for tag, a in Reader(text).tags if tag == "a"]
    (page,) = [link for link in links if not link.startswith("#")]
    assert (root / page).read_text() == "a page"
    assert "#made/up" in links


def test_a_run_that_is_whole_has_its_picture(text: str) -> None:
    shown = [str(a["src"]) for tag, a in Reader(text).tags if tag == "img"]
    assert len(shown) == len([row for row in rows(text).values() if "inconclusive" in row or "only l2" in row])
    for one in shown:
        picture = Image.open(io.BytesIO(base64.b64decode(one.removeprefix("data:image/png;base64,"))))
        assert picture.width == 277  # of 370 CSS pixels


def test_the_index_is_self_contained_and_names_no_folder(root: Path, text: str) -> None:
    for tag, attributes in Reader(text).tags:
        assert tag not in {"iframe", "object", "embed", "base", "form"}
        assert not {"srcset", "style"} & set(attributes)
        assert (attributes.get("src") or "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attributes)
    assert str(root) not in text
    assert "/home" not in text
    assert "pixels.npz" in text
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "default-src 'none'" in text


def test_the_index_of_kept_runs_lies_where_their_pages_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not among the copies, which are committed."""
    kept = keep(run(tmp_path / "trained"), tmp_path / "results").folder
    there = {path for path in (tmp_path / "results").rglob("*")}
    monkeypatch.chdir(tmp_path)
    beside = Path("runs", "made", "up", kept.name, "report.html")
    beside.parent.mkdir(parents=True)
    beside.write_text("its page")
    path = write_index(Path("results"))
    assert path == Path("runs", "results.html")
    assert set((tmp_path / "results").rglob("*")) == there
    links = [str(a["href"]) for tag, a in Reader(path.read_text()).tags if tag == "a"]
    assert (path.parent / next(link for link in links if not link.startswith("#"))).read_text() == "its page"


def test_the_index_lies_where_it_is_asked_for_and_links_what_lies_below(tmp_path: Path) -> None:
    folder = run(root := tmp_path / "all" / "runs").folder
    (folder / "report.html").write_text("its page")
    for to, linked in ((tmp_path / "all" / "index.html", True), (tmp_path / "new" / "else" / "index.html", False)):
        assert write_index(root, to) == to
        links = [str(a["href"]) for tag, a in Reader(to.read_text()).tags if tag == "a"]
        pages = [link for link in links if not link.startswith("#")]
        assert [(to.parent / page).read_text() for page in pages] == ["its page"] * linked
    assert not (root / "index.html").exists()


def test_what_a_run_says_is_escaped(tmp_path: Path) -> None:
    written(tmp_path, Settings(data="<script>alert(1)</script>"))
    text = index(tmp_path, KNOWN)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_an_empty_store_and_none(tmp_path: Path) -> None:
    path = write_index(tmp_path)
    assert path == tmp_path / "index.html"
    assert "There is no run here yet" in path.read_text()
    Reader(path.read_text())
    with pytest.raises(ValueError, match=r"no store at .*: choose its folder with --out"):
        write_index(tmp_path / "nowhere")
