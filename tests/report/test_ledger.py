"""The ledger: every line of the checklist, every verdict, and text that Markdown shows as meant."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pliant import cite
from pliant.claims import Claim
from pliant.experiment import Experiment, experiments
from pliant.papers.checklist import CHECKLIST, line
from pliant.report.ledger import evidence, ledger, standing, write_ledger
from tests.report.stores import KNOWN, written
from tests.report.synthetic import SETUP, Settings, arms, results


@dataclass(frozen=True)
class Linked(Claim):
    """A claim that evidences lines of the checklist."""

    checklist: tuple[int, ...] = ()


def linked(experiment: Experiment, numbers: dict[str, tuple[int, ...]]) -> Experiment:
    claims = tuple(
        Linked(c.text, c.effect, c.threshold, c.paper, c.ours, c.given, checklist=numbers.get(c.text, ()))
        for c in SETUP.claims
    )
    return replace(experiment, setup=lambda settings: replace(SETUP, arms=arms(settings.data), claims=claims))


LINKED = {"made/up": linked(KNOWN["made/up"], {"L2 ends above nothing.": (3, 37), "Nothing ends above L2.": (37,)})}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    written(root)
    written(root, Settings(l2=0.25, data="/home/someone/pixels.npz"), made=results(seeds=2), seeds=[0, 1])
    written(root, Settings(hidden=(4,)), arms=["l2"])
    written(root, tier="smoke")
    return root


@pytest.fixture(scope="module")
def text(root: Path) -> str:
    made = ledger(root, LINKED)
    assert ledger(root, LINKED) == made
    return made


def entry(text: str, number: int) -> str:
    """What the ledger says of a line, on one line."""
    found = re.search(rf"^\*\*{number}\.\*\* .*?(?=^\*\*\d+\.\*\*|^## )", text, re.DOTALL | re.MULTILINE)
    assert found
    return " ".join(found[0].split())


def test_the_checklist_is_that_of_both_papers() -> None:
    assert [one.number for one in CHECKLIST] == list(range(1, 47))
    assert {one.paper for one in CHECKLIST[:25]} == {"lyle2023"}
    assert {one.paper for one in CHECKLIST[25:]} == {"lyle2024"}
    assert all(cite.entry(one.paper) and one.where and one.value and one.text.endswith(".") for one in CHECKLIST)
    with pytest.raises(ValueError, match="from 1 to 46, got 47"):
        line(47)


def test_every_line_is_there_in_order(text: str) -> None:
    assert re.findall(r"^\*\*(\d+)\.\*\*", text, re.MULTILINE) == [str(n) for n in range(1, 47)]
    for one in CHECKLIST:
        assert one.text[:40].split("|")[0].replace("_", "") in entry(text, one.number).replace("_", "")


def test_each_verdict_comes_with_number_tier_seeds_data_and_commit(text: str) -> None:
    said = entry(text, 37)
    assert "**Ours: 2 hold, 2 fail.**" in said
    assert "- L2 ends above nothing. `made/up`, needs more than 0 - **holds**: 0.300 [0.275, 0.325]; p 0.00019," in said
    assert "Holm 0.00056 of 3; laptop tier" in said
    assert "laptop tier, 3 seeds, digits, commit abc1234" in said
    assert "laptop tier, 2 seeds, pixels.npz, l2=0.25, commit abc1234" in said
    assert "Nothing ends above L2." in said
    assert "Nothing ends above L2." not in entry(text, 3)
    assert "smoke" not in text


def test_lines_without_evidence_say_so(text: str) -> None:
    assert entry(text, 24).endswith("mean +34.7 %.* (no experiment yet)")
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "| Paper 1 | 25 | 1 | 0 | 0 | 0 | 0 | 24 |" in rows
    assert "| Paper 2 | 21 | 0 | 1 | 0 | 0 | 0 | 20 |" in rows


def test_a_stand_in_stands_beside_a_line_of_the_papers_and_gives_no_verdict_on_it(root: Path) -> None:
    claims = tuple(replace(claim, beside=(24,)) for claim in SETUP.claims)
    experiment = replace(KNOWN["made/up"], setup=lambda s: replace(SETUP, arms=arms(s.data), claims=claims))
    said = entry(ledger(root, {"made/up": experiment}), 24)
    assert "(no evidence at this scale) Beside it, claims of ours about a stand-in" in said
    assert "- L2 ends above nothing. `made/up`, needs more than 0 - **holds**" in said
    assert "Ours:" not in said
    assert "beyond this list" not in ledger(root, {"made/up": experiment})


def test_claims_beyond_the_list_and_runs_without_a_verdict_are_said(text: str) -> None:
    beyond, silent = text[text.index("beyond this list") :].split("## Runs that give no verdict")
    assert "L2 ends above 0.99. `made/up`, needs more than 0.99 (our threshold)" in beyond
    assert "**inconclusive** (precondition not met: nothing reaches 2)" in beyond
    assert re.search(r"- made/up/laptop-\w{8}: has none of the arms that claims read, but l2\n", silent)


def test_it_fits_120_columns_and_markdown_takes_nothing_for_markup(root: Path, text: str) -> None:
    assert max(map(len, text.splitlines())) <= 120
    assert "/home" not in text
    assert str(root) not in text
    before = ""
    for row in text.splitlines():
        item = re.match(r"- [A-Zm]|  - (\*\*(holds|fails|inconclusive)|not run)", row)
        if before and not item:  # a continuation starts no quote, list, heading or rule
            assert not re.match(r"\s*([>#+=-]|\d+[.)])(\s|$)", row), row
        before = row


def test_experiments_without_runs(tmp_path: Path) -> None:
    found, silent = evidence(tmp_path, LINKED)
    assert [(one.claim.text, one.verdicts) for one in found] == [(claim.text, ()) for claim in SETUP.claims]
    assert silent == []
    assert standing(found) == "not run yet"
    text = ledger(tmp_path, LINKED)
    assert entry(text, 3).endswith("(not run yet) - L2 ends above nothing. `made/up`, needs more than 0 - not run yet")


def test_a_claim_on_no_line_of_the_checklist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 99"):
        ledger(tmp_path, {"made/up": linked(KNOWN["made/up"], {"L2 ends above nothing.": (99,)})})


def test_the_ledger_of_this_package_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    path = write_ledger(tmp_path / "results", tmp_path / "docs" / "claims.md")
    text = " ".join(path.read_text().split())
    for experiment in experiments().values():
        for claim in experiment.setup(experiment.tiers["laptop"]).claims:
            assert claim.text in text
    with pytest.raises(ValueError, match=r"no results at .*: choose their folder with --out"):
        write_ledger(tmp_path / "nowhere", path)
