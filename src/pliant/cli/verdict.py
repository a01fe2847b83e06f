"""The verdict of `pliant diagnose`, the causes of what was lost, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from pliant.causes import Causes


def print_causes(console: Console, causes: Causes) -> None:
    """The report as `print` has it, with settings as options; the verdict and what to do stand out."""
    style = {"lost": "bold red", "healthy": "bold green"}.get(causes.verdict, "bold yellow")
    said = causes.text(console.width, "--{} {:g}").replace("; lr= sets another", "; --lr sets another")
    first, *middle, last = said.split("\n\n")
    console.print(Text(first, style), soft_wrap=True)
    for block in middle:
        console.print(Text(f"\n{block}"), soft_wrap=True)
    console.print(Text(f"\n{last}", "bold"), soft_wrap=True)
