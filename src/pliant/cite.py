"""References: the entries of refs.bib, for BibTeX files and for reading."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib import resources
from typing import Any

from pliant.experiment import Experiment, Setup
from pliant.words import unknown

ACCENTS = {"`": "\u0300", "'": "\u0301", "^": "\u0302", "~": "\u0303", '"': "\u0308", "c": "\u0327", "v": "\u030c"}


@dataclass(frozen=True)
class Entry:
    """One BibTeX entry: its fields by lower-case name, and the text as it stands in the file."""

    key: str
    fields: dict[str, str]
    text: str

    @property
    def authors(self) -> list[str]:
        """Names in reading order.

        >>> entry("ba2016").authors
        ['Jimmy Lei Ba', 'Jamie Ryan Kiros', 'Geoffrey E. Hinton']
        """
        names = (plain(name).partition(",") for name in re.split(r"\s+and\s+", self.fields["author"]))
        return [f"{first.strip()} {last.strip()}".strip() for last, _, first in names]

    @property
    def surnames(self) -> list[str]:
        """Names without what comes before them."""
        names = (plain(name) for name in re.split(r"\s+and\s+", self.fields["author"]))
        return [name.partition(",")[0].strip() if "," in name else name.split()[-1] for name in names]

    @property
    def title(self) -> str:
        """The title, without braces."""
        return plain(self.fields["title"])

    @property
    def venue(self) -> str:
        """Where and when it appeared."""
        preprint = f"arXiv:{self.fields['eprint']}" if "eprint" in self.fields else ""
        venue = next(
            (self.fields[name] for name in ("booktitle", "journal", "school", "institution") if name in self.fields),
            preprint,
        )
        return ", ".join(part for part in (plain(venue), self.fields.get("year", "")) if part)

    @property
    def link(self) -> str | None:
        """A DOI, address or arXiv page, in this order; None where the entry has none."""
        if "doi" in self.fields:
            return f"https://doi.org/{self.fields['doi']}"
        if "url" in self.fields:
            return self.fields["url"]
        return f"https://arxiv.org/abs/{self.fields['eprint']}" if "eprint" in self.fields else None


def entry(key: str) -> Entry:
    """The entry of refs.bib with this key; `ValueError` with the nearest match otherwise."""
    known = _entries()
    if key not in known:
        raise ValueError(unknown("reference", key, list(known)))
    return known[key]


def bibtex(keys: Iterable[str]) -> str:
    r"""The entries as they stand in refs.bib, once each, in the order of `keys`; `ValueError` for an unknown key.

    >>> bibtex(["lyle2023"]).splitlines()[0]
    '@inproceedings{lyle2023,'
    """
    return "\n\n".join(entry(key).text for key in dict.fromkeys(keys)) + "\n"


def short(key: str) -> str:
    """How a sentence names it. The year is the key's, by which the paper is known, rather than the proceedings'.

    >>> short("lyle2024"), short("ba2016")
    ('Lyle et al. 2024', 'Ba et al. 2016')
    """
    found = entry(key)
    names = found.surnames
    year = re.search(r"\d{4}", key)
    who = f"{names[0]} et al." if len(names) > 2 else " & ".join(names)
    return f"{who} {year[0] if year else found.fields['year']}"


def references_used(experiment: Experiment, setup: Setup) -> list[str]:
    """Keys of what an experiment reproduces and of what its trials are made of, once each."""
    trials = [arm.trial for arm in setup.arms.values()]
    return list(dict.fromkeys([*experiment.references, *_references(trials)]))


def _references(value: Any) -> Iterator[str]:
    """The `reference` of every dataclass inside a value, in the order of their fields."""
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _references(part)
    elif is_dataclass(value):
        if isinstance(key := getattr(value, "reference", None), str) and key:
            yield key
        for field in fields(value):
            yield from _references(getattr(value, field.name))


def parse(text: str) -> dict[str, Entry]:
    """The entries of a BibTeX file by key; what stands between entries is a comment.

    Values are in braces or quotes, or bare numbers. `ValueError` for a brace that is never closed, a key that comes
    twice, or anything else (`@string`, `#`).

    >>> parse('@misc{a1, title = {One {Two}}, year = 2020}')["a1"].fields
    {'title': 'One {Two}', 'year': '2020'}
    """
    found: dict[str, Entry] = {}
    for start in re.finditer(r"^@(\w+)\s*\{\s*([^,\s]+)\s*,", text, re.MULTILINE):
        end = _closing(text, start.end(), start[2])
        if start[2] in found:
            raise ValueError(f"expected every key once in the BibTeX file, got {start[2]} twice")
        found[start[2]] = Entry(start[2], _fields(text[start.end() : end], start[2]), text[start.start() : end + 1])
    return found


def plain(text: str) -> str:
    r"""A BibTeX value for reading: accents composed, braces gone, dashes and spaces as in print.

    >>> plain('{Poincar\\\'e} and Sch{\\"o}lkopf, 23--42')
    'Poincaré and Schölkopf, 23–42'
    """

    def accent(match: re.Match[str]) -> str:
        return unicodedata.normalize("NFC", match[2] + ACCENTS[match[1]])

    text = re.sub(r"\\([`'^~\"]|[cv](?=[{\s]))\s*\{?([A-Za-z])\}?", accent, text)
    text = text.replace("\\&", "&").replace("~", " ").replace("--", "\N{EN DASH}")
    return " ".join(re.sub(r"[{}]", "", text).split())


@cache
def _entries() -> dict[str, Entry]:
    return parse((resources.files("pliant") / "refs.bib").read_text("utf-8"))


def _fields(body: str, key: str) -> dict[str, str]:
    fields, at = {}, 0
    while match := re.compile(r"[\s,]*(\w+)\s*=\s*").match(body, at):
        at = match.end()
        if body[at : at + 1] == "{":
            end = _closing(body, at + 1, key)
            value, at = body[at + 1 : end], end + 1
        elif body[at : at + 1] == '"':
            quoted = re.compile(r'"((?:[^"{}]|\{[^{}]*\})*)"').match(body, at)  # quotes inside braces do not end it
            if quoted is None:
                break
            value, at = quoted[1], quoted.end()
        else:
            number = re.compile(r"\d*").match(body, at)
            assert number is not None
            value, at = number[0], number.end()
        fields[match[1].lower()] = " ".join(value.split())
    if body[at:].strip(", \n\t") or not all(fields.values()):
        raise ValueError(f"expected name = {{value}} in the BibTeX entry {key}, got {body[at:].strip()[:40]!r}")
    return fields


def _closing(text: str, start: int, key: str) -> int:
    """Where the brace closes that was opened just before `start`."""
    depth = 1
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return at
    raise ValueError(f"expected a closing brace for the BibTeX entry {key}, got the end of the file")
