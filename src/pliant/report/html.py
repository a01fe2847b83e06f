"""What the HTML pages share: the templates of this folder, their filters and their script, and files inside a page."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pliant import cite

SIGNS = {"holds": "\N{CHECK MARK}", "fails": "\N{MULTIPLICATION SIGN}", "inconclusive": "?"}


def template(name: str) -> Any:
    """A template of this folder, with the filters that pages share."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["heading"] = _heading
    environment.filters["split"] = _split
    environment.filters["short"] = cite.short
    environment.filters["seconds"] = _duration
    return environment.get_template(name)


def uri(kind: str, text: str) -> str:
    """A file inside the page."""
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"


def script() -> dict[str, str]:
    """The one script of pages, which sorts tables, and its digest, without which a browser does not run it."""
    text = Path(__file__).with_name("sort.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return {"script": Markup(text), "digest": digest}


def _heading(text: str) -> Markup:
    """A heading whose line breaks are spaces, after a hyphen places where it may be split."""
    pieces = (Markup(" ").join(escape(part) for part in piece.split("\n")) for piece in text.split("-\n"))
    return Markup("&shy;").join(pieces)


def _split(name: str) -> Markup:
    """A name of the API that may be broken before each word of it, and before what follows in brackets."""
    return Markup("<wbr>").join(map(escape, re.split(r"(?<=[a-z0-9])(?=[A-Z])|(?=\()", name)))


def _duration(seconds: float) -> str:
    """Seconds as a reader takes them in."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
