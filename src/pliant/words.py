"""Words for users: errors that name the nearest match."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def unknown(what: str, got: str, known: Sequence[str]) -> str:
    """One line that names the nearest match.

    >>> unknown("tier", "labtop", ["smoke", "laptop"])
    "unknown tier 'labtop': did you mean 'laptop'? (smoke, laptop)"
    """
    found = difflib.get_close_matches(got, known, n=1, cutoff=0.4)
    hint = f"did you mean {found[0]!r}? " if found else ""
    return f"unknown {what} {got!r}: {hint}({', '.join(known)})"


def near(got: str, known: Sequence[str]) -> str:
    """What may have been meant, as the end of a sentence; nothing where no name comes near.

    >>> near("labtop", ["smoke", "laptop"]), near("x", ["smoke"])
    (", did you mean 'laptop'?", '')
    """
    found = difflib.get_close_matches(got, known, n=1, cutoff=0.6)
    return f", did you mean {found[0]!r}?" if found else ""
