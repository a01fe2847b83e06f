"""Tables as Markdown and LaTeX: whatever a cell holds, the table stays a table."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.formats import Grid, escape_latex, escape_markdown, latex, markdown
from pliant.report.tables import claims_grid, closing_grid
from tests.report.synthetic import SETUP, results

CELLS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)


@given(st.lists(st.tuples(CELLS, CELLS), max_size=4))
def test_every_cell_stays_in_its_place(rows: list[tuple[str, str]]) -> None:
    grid = Grid(["a", "b"], rows, "lr", ["some note"])
    lines = markdown(grid).splitlines()
    assert all(len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3 for line in lines[: 2 + len(rows)])
    made = latex(grid)
    inside = made[made.index("\\midrule") : made.index("\\bottomrule")]
    assert len(re.findall(r"(?<!\\)&", inside)) == len(rows)
    assert len(re.findall(r" \\\\\n", inside)) == len(rows)
    bare = re.sub(r"\\[{}]", "", made)
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"\\\\\n\s*[\[*]", made)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"a_b & 50% #1 $x$ {y}", r"a\_b \& 50\% \#1 \$x\$ \{y\}"),
        ("~ ^ \\", r"\textasciitilde{} \textasciicircum{} \textbackslash{}"),
        ("> 0.5, < 1", r"\textgreater{} 0.5, \textless{} 1"),
        ("\N{MINUS SIGN}0.3 ± 0.1\N{DAGGER} \N{EN DASH}", r"$-$0.3 $\pm$ 0.1\textdagger{} --"),
    ],
)  # fmt: skip
def test_latex_of_what_our_tables_hold(text: str, expected: str) -> None:
    assert escape_latex(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("norm_ratio", "norm_ratio"),
        ("_x_ *y*", r"\_x\_ \*y\*"),
        ("a|b`c<d~", r"a\|b\`c\<d\~"),
        ("at most `a_*` | `b|c`", r"at most `a_*` \| \`b\|c\`"),
        ("two\nlines", "two lines"),
    ],
)
def test_markdown_of_what_our_tables_hold(text: str, expected: str) -> None:
    assert escape_markdown(text) == expected


def test_the_closing_table() -> None:
    grid = closing_grid(SETUP, results(diverged={("l2", 1): 27}))
    assert list(grid.headings) == ["arm", "first task", "accuracy", "norm"]
    assert "| no intervention |" in markdown(grid)
    assert r"L2 \<b>&" in markdown(grid)
    assert r"L2 \textless{}b\textgreater{}\& & 0.80 $\pm$ 0.05 & 0.72\textdagger{} $\pm$" in latex(grid)
    assert "% L2 <b>&: seed 1 diverged at step 27" in latex(grid)


def test_the_claims_table() -> None:
    grid = claims_grid([claim.check(results()) for claim in SETUP.claims])
    assert list(grid.headings) == ["claim", "verdict", "ours", "needs", "paper"]
    assert r"L2 ends above nothing. & holds & 0.300 [0.275, 0.325] & \textgreater{} 0 & 0.3 \\" in latex(grid)
    assert "inconclusive (precondition not met: nothing reaches 2)" in markdown(grid)
    assert latex(grid).startswith("% \\usepackage{booktabs}\n% 1 of 3 claims hold, 1 fails, 1 inconclusive\n")
