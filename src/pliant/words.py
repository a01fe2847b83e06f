"""Words for users: errors that name the nearest match."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def unknown(what: str, got: str, known: Sequence[str]) -> str:
    """One line that names the nearest match.

    >>> unknown("tier", "labtop", ["smoke", "laptop"])
    "unknown tier 'labtop': did you mean 'laptop'? (smoke, laptop)"
    """
    near = difflib.get_close_matches(got, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {what} {got!r}: {hint}({', '.join(known)})"
