"""Tables as Markdown and as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

Format = Literal["md", "latex"]
LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "`": r"\textasciigrave{}",
    "\N{MINUS SIGN}": "$-$", "\N{PLUS-MINUS SIGN}": r"$\pm$", "\N{EN DASH}": "--", "\N{DAGGER}": r"\textdagger{}",
    "\N{MULTIPLICATION SIGN}": r"$\times$", "\N{RIGHTWARDS ARROW}": r"$\to$", "\N{HORIZONTAL ELLIPSIS}": r"\dots{}",
    "\N{LEFT DOUBLE QUOTATION MARK}": "``", "\N{RIGHT DOUBLE QUOTATION MARK}": "''",
})  # fmt: skip


class Grid(NamedTuple):
    """A table of plain text.

    Args:
        headings: one a column.
        rows: one text a column.
        columns: how each column stands: `l` left, `r` right, `p` text that wraps.
        notes: what a caption should say.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    columns: str
    notes: Sequence[str] = ()

    def text(self, format: Format) -> str:
        """The table in one of the two formats."""
        return markdown(self) if format == "md" else latex(self)


def markdown(grid: Grid) -> str:
    r"""A pipe table, its columns padded, its notes below.

    >>> print(markdown(Grid(["arm", "accuracy"], [["L2|x", "0.98"]], "lr", ["one seed"])), end="")
    | arm   | accuracy |
    |:------|---------:|
    | L2\|x |     0.98 |
    <BLANKLINE>
    one seed
    """
    rows = [[escape_markdown(cell) for cell in row] for row in [grid.headings, *grid.rows]]
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    right = [kind == "r" for kind in grid.columns]

    def line(cells: Sequence[str]) -> str:
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (w + 1) + ":" if r else ":" + "-" * (w + 1) for w, r in zip(widths, right, strict=True))
    notes = "".join(f"\n{escape_markdown(note)}\n" for note in grid.notes)
    return "\n".join([line(rows[0]), f"|{rule}|", *map(line, rows[1:])]) + "\n" + notes


def latex(grid: Grid) -> str:
    r"""A `tabular` with the rules of booktabs; its notes are comments, for the caption.

    >>> print(latex(Grid(["arm", "in %"], [["L2_x", "0.98 ± 0.01"]], "lr")), end="")
    % \usepackage{booktabs}
    \begin{tabular}{lr}
    \toprule
    arm & in \% \\
    \midrule
    L2\_x & 0.98 $\pm$ 0.01 \\
    \bottomrule
    \end{tabular}
    """
    share = 0.6 / max(1, grid.columns.count("p"))
    kinds = grid.columns.replace("p", rf"p{{{share:.2g}\linewidth}}")
    heading, *rows = [" & ".join(map(escape_latex, row)) + r" \\" for row in [grid.headings, *grid.rows]]
    rows = [f"{{}}{row}" if row[0] in "[*" else row for row in rows]  # after \\ these would be its arguments
    inside = [r"\toprule", heading, r"\midrule", *rows, r"\bottomrule"]
    notes = [f"% {' '.join(note.split())}" for note in grid.notes]
    head = [r"% \usepackage{booktabs}", *notes, rf"\begin{{tabular}}{{{kinds}}}"]
    return "\n".join([*head, *inside, r"\end{tabular}", ""])


def escape_markdown(text: str) -> str:
    r"""Plain text as Markdown shows it, on one line.

    What is between backticks stays code, and an underscore inside a word needs no escape.

    >>> print(escape_markdown("norm_ratio <b> *x* a|b `tau`"))
    norm_ratio \<b> \*x\* a\|b `tau`
    """
    plain, *rest = re.split(r"(`[^`\\|]+`)", " ".join(text.split()))
    return _escaped(plain) + "".join(code + _escaped(after) for code, after in zip(rest[::2], rest[1::2], strict=True))


def _escaped(text: str) -> str:
    text = re.sub(r"([\\`*<|~])", r"\\\1", text)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)


def escape_latex(text: str) -> str:
    r"""Plain text as LaTeX sets it, on one line.

    >>> print(escape_latex("50 % of a_b, −0.1 ± 0.2"))
    50 \% of a\_b, $-$0.1 $\pm$ 0.2
    """
    return " ".join(text.split()).translate(LATEX)
