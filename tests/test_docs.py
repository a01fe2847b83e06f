"""The tables of docs/ are those that its commands print."""

import re
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {path.name: path.read_text() for path in sorted(DOCS.glob("*.md"))}
written = runpy.run_path(str(DOCS / "tables.py"))["written"]


@pytest.mark.parametrize("name", [name for name, text in PAGES.items() if "<!-- pliant " in text])
def test_tables_are_those_of_today(name: str) -> None:
    assert written(PAGES[name]) == PAGES[name], f"docs/{name} is of yesterday: make tables"


def test_what_lies_between_a_command_and_its_end_is_replaced() -> None:
    listed = [name for name, text in PAGES.items() if "<!-- pliant " in text]
    assert listed == ["diagnostics.md", "interventions.md"]
    old = "before\n<!-- pliant interventions L2 --format md -->\nyesterday\n<!-- end -->\nafter\n"
    new = written(old)
    assert new.startswith("before\n<!-- pliant interventions L2 --format md -->\n| name")
    assert "| L2" in new
    assert "yesterday" not in new
    assert new.endswith("<!-- end -->\nafter\n")
    assert written(new) == new


def test_docstrings_become_markdown() -> None:
    documented = runpy.run_path(str(DOCS / "generate.py"))["documented"]
    told = documented(
        "Sum of `x`.\n\nArgs:\n    x: one\n        number.\n    *more: others.\n\n>>> 1 + 1\n2\n\n>>> 3\n3"
    )
    assert told == (
        "Sum of `x`.\n\n**Args**\n\n- `x`: one number.\n- `*more`: others.\n\n```pycon\n>>> 1 + 1\n2\n```\n\n"
        "```pycon\n>>> 3\n3\n```"
    )


def test_recipes_that_pages_show_can_be_made() -> None:
    import pliant.interventions

    names = vars(pliant.interventions)
    for page in ("cures_when.md", "cheatsheet.md"):
        lines = re.findall(r"`([A-Z]\w+\([^`]*\))`", PAGES[page])
        shown = [line for line in lines if line.partition("(")[0] in names]
        assert shown or page != "cures_when.md"
        for line in shown:
            eval(line, dict(names))


def test_signatures_are_as_one_would_write_them() -> None:
    from pliant.interventions import L2
    from pliant.nets import CNN

    signature = runpy.run_path(str(DOCS / "generate.py"))["_signature"]
    assert signature(L2) == "(strength: float, normalisers: bool = False) -> None"
    assert "activation: Activation = ReLU" in signature(CNN)
