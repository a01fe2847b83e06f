"""The ledger: every claim of both papers, and what our stored results say of it, as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pliant import cite
from pliant.claims import Checked, Claim
from pliant.experiment import TIERS, Experiment, experiments
from pliant.formats import Grid, escape_markdown, markdown
from pliant.papers.checklist import CHECKLIST, Line, line
from pliant.report.listing import runs
from pliant.report.stored import Stored, opened, reason
from pliant.report.tables import counted, effect, p_values

WIDTH = 118
COUNTED = ("laptop", "paper")  # smoke only shows that everything runs
INTRODUCTION = (
    "Made by `pliant ledger` from stored results; do not edit. The 46 lines are what a reproduction of both papers has "
    "to show. Below each stand the claims of our experiments that evidence it, with a verdict for every run at the "
    "laptop and paper tiers: a claim gives one number a seed, and *holds* where the 95 % interval of their mean lies "
    "above its threshold, *fails* where it lies below, and is *inconclusive* otherwise. Beside the one-sided p value "
    "stands Holm's, corrected over its family: all claims that the experiment makes, as many as it says. A line often "
    "says more than the claims below it test. Values of paper 2 come from close readings by others, some by eye: they "
    "are leads."
)
SCALE = "beyond our scale"
STATES = ("all hold", "some fail", "some undecided", "not run yet", SCALE, "no experiment yet")
PAPERS = {"lyle2023": "Paper 1", "lyle2024": "Paper 2"}


class Verdict(NamedTuple):
    """What one run says of one claim, among how many of its experiment: the family of Holm's correction."""

    run: Stored
    checked: Checked
    family: int


@dataclass(frozen=True)
class Evidence:
    """A claim of an experiment with its verdicts, none before it was run."""

    experiment: str
    claim: Claim
    verdicts: tuple[Verdict, ...]


def evidence(root: Path, known: Mapping[str, Experiment] | None = None) -> tuple[list[Evidence], list[str]]:
    """Every claim of every experiment with its verdicts under `root`, and a sentence on each run that gives none.

    All runs at the laptop and paper tiers count, whatever their settings; one that is incomplete gives no verdict.
    """
    known = experiments() if known is None else known
    found: dict[tuple[str, str], list[Verdict]] = {}
    silent = []
    for listed in runs(root):
        if listed.tier not in COUNTED and not listed.problem:
            continue
        try:
            if listed.problem:
                raise ValueError(listed.problem)
            run = opened(root / listed.path, known)
            verdicts = run.verdicts()
            if not verdicts:
                raise ValueError(f"has none of the arms that claims read, but {', '.join(run.arms)}")
            for checked in verdicts:
                found.setdefault((run.experiment.id, checked.claim.text), []).append(
                    Verdict(run, checked, len(run.setup.claims))
                )
        except Exception as error:  # a store may come from anybody: one bad run is told, and the others counted
            silent.append(f"{listed.path}: {reason(error, root / listed.path)}")
    claims = {(id, claim.text): claim for id, experiment in known.items() for claim in _claims(experiment)}
    claims |= {key: verdicts[0].checked.claim for key, verdicts in found.items()}
    order = list(known)
    made = [Evidence(id, claims[id, said], tuple(sorted(found.get((id, said), []), key=_order))) for id, said in claims]
    made.sort(key=lambda one: order.index(one.experiment))
    return made, silent


def ledger(root: Path, known: Mapping[str, Experiment] | None = None) -> str:
    """All lines of the checklist with their evidence: the same results give the same text, at most 120 columns wide."""
    every, silent = evidence(root, known)
    by_line: dict[int, list[Evidence]] = {one.number: [] for one in CHECKLIST}
    beside: dict[int, list[Evidence]] = {one.number: [] for one in CHECKLIST}
    for one in every:
        for number in _numbers(one):
            by_line[line(number).number].append(one)
        for number in one.claim.beside:
            beside[line(number).number].append(one)
    parts = [_head(by_line, beside)]
    for key, name in PAPERS.items():
        parts.append(f"## {name}: {cite.entry(key).title} ({cite.short(key)})\n")
        parts += [_entry(one, by_line[one.number], beside[one.number]) for one in CHECKLIST if one.paper == key]
    beyond = [one for one in every if not _numbers(one) and not one.claim.beside]
    if beyond:
        parts.append("## Claims of our experiments beyond this list\n")
        parts.append("\n".join(map(_claim, beyond)) + "\n")
    if silent:
        parts.append("## Runs that give no verdict\n")
        parts.append("\n".join(_wrapped("- ", escape_markdown(said)) for said in silent) + "\n")
    return "\n".join(parts)


def write_ledger(root: Path, path: Path) -> Path:
    """Writes the ledger of the results under `root`; returns where it is."""
    if not root.is_dir():
        raise ValueError(f"no results at {root}: choose their folder with --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(ledger(root), encoding="utf-8")
    return path


def standing(found: Iterable[Evidence], beside: Sequence[Evidence] = ()) -> str:
    """Under which of `STATES` a line of the checklist is counted, of which stand-ins show what is `beside` it.

    >>> standing([])
    'no experiment yet'
    """
    found = list(found)
    verdicts = [verdict.checked.verdict for one in found for verdict in one.verdicts]
    if beside and not verdicts:
        return SCALE
    if not found:
        return "no experiment yet"
    if not verdicts:
        return "not run yet"
    if "fails" in verdicts:
        return "some fail"
    return "all hold" if set(verdicts) == {"holds"} and all(one.verdicts for one in found) else "some undecided"


def _head(by_line: Mapping[int, Sequence[Evidence]], beside: Mapping[int, Sequence[Evidence]]) -> str:
    rows = []
    for key, name in PAPERS.items():
        found = [standing(by_line[one.number], beside[one.number]) for one in CHECKLIST if one.paper == key]
        rows.append([name, str(len(found)), *(str(found.count(state)) for state in STATES)])
    total = [str(sum(int(row[at]) for row in rows)) for at in range(1, len(STATES) + 2)]
    table = markdown(Grid(["", "lines", *STATES], [*rows, ["both", *total]], "l" + "r" * (len(STATES) + 1)))
    intro = textwrap.fill(INTRODUCTION, WIDTH)
    return f"# What the papers claim, and what our runs say\n\n{intro}\n\n{table}"


def _entry(said: Line, found: Sequence[Evidence], beside: Sequence[Evidence]) -> str:
    """A line of the checklist with its evidence, then what is no evidence for it but stands beside it."""
    value = said.value if said.value == "direction only" else f"paper: {said.value}"
    source = f"*{said.where[0].upper()}{said.where[1:]}; {escape_markdown(value)}.*"
    tally = counted([verdict.checked.verdict for one in found for verdict in one.verdicts])
    state = standing(found, beside).replace(SCALE, "no evidence at this scale")
    state = f"**Ours: {tally}.**" if tally else f"({state})"
    head = _wrapped("", f"**{said.number}.** {escape_markdown(said.text)} {source} {state}")
    shown = [head, ""]
    if found:
        shown += [*map(_claim, found), ""]
    if beside:
        told = "Beside it, claims of ours about a stand-in, which are no evidence for it or against it:"
        shown += [told, "", *map(_claim, beside), ""]
    return "\n".join(shown)


def _claim(one: Evidence) -> str:
    """A claim of an experiment with its verdicts, as an item of a list."""
    needs = one.claim.needs.replace("> ", "more than ")  # a line that begins with > would be a quotation
    needs = f"needs {needs}" + (" (our threshold)" if one.claim.ours else "")
    head = _wrapped("- ", f"{escape_markdown(one.claim.text)} `{one.experiment}`, {needs}")
    verdicts = [_wrapped("  - ", _verdict(verdict)) for verdict in one.verdicts] or ["  - not run yet"]
    return "\n".join([head, *verdicts])


def _verdict(verdict: Verdict) -> str:
    run, checked, family = verdict
    reason = f" ({escape_markdown(checked.reason)})" if checked.reason else ""
    seeds = f"{len(run.seeds)} seed{'s' if len(run.seeds) > 1 else ''}"
    changes = [f"{name}={value}" for name, value in run.changes().items() if name != "data"]
    data = [run.data] if run.data else []  # agents in games have none
    facts = [f"{run.tier} tier", seeds, *data, *changes, f"commit {', '.join(run.commits()) or 'unknown'}"]
    p = p_values(checked)
    p += f" of {family}" if p else ""
    return f"**{checked.verdict}**{reason}: {effect(checked)}{p}; {escape_markdown(', '.join(facts))}"


def _claims(experiment: Experiment) -> list[Claim]:
    """What the experiment claims at the tiers that count."""
    settings = [settings for tier, settings in experiment.tiers.items() if tier in COUNTED]
    return [claim for one in settings for claim in experiment.setup(one).claims]


def _numbers(one: Evidence) -> tuple[int, ...]:
    return getattr(one.claim, "checklist", ())


def _order(verdict: Verdict) -> tuple:
    run = verdict.run
    return (-TIERS.index(run.tier), len(run.changes()), str(run.changes()), run.folder.name)


def _wrapped(bullet: str, text: str) -> str:
    indent = " " * len(bullet)
    return textwrap.fill(
        text, WIDTH, initial_indent=bullet, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
