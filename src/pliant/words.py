"""Words for users: errors that name the nearest match, and errors of others in one line."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def unknown(what: str, got: str, known: Sequence[str]) -> str:
    """One line that names the nearest match, if one is near, and all that are known.

    >>> unknown("tier", "labtop", ["smoke", "laptop"])
    "unknown tier 'labtop': did you mean 'laptop'? (smoke, laptop)"
    >>> unknown("tier", "desk", ["smoke", "laptop"])
    "unknown tier 'desk' (smoke, laptop)"
    """
    found = _nearest(got, known)
    hint = f": did you mean {found!r}?" if found else ""
    return f"unknown {what} {got!r:.80}{hint} ({', '.join(known)})"


def near(got: str, known: Sequence[str]) -> str:
    """What may have been meant, as the end of a sentence; nothing where no name comes near.

    >>> near("labtop", ["smoke", "laptop"]), near("x", ["smoke"])
    (", did you mean 'laptop'?", '')
    """
    found = _nearest(got, known)
    return f", did you mean {found!r}?" if found else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, with the next if it ends in a colon; or its kind where it has none.

    >>> first_line(RuntimeError("\\nno kernel\\nfor this dtype")), first_line(KeyError())
    ('no kernel', 'KeyError')
    >>> first_line(RuntimeError("inductor raised:\\nCppCompileError: no compiler\\n\\nCommand:"))
    'inductor raised: CppCompileError: no compiler'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1]) or type(error).__name__


def _nearest(got: str, known: Sequence[str]) -> str | None:
    """The name that is most like it, whatever the case, or the only one that it is a part of; None if none is near."""
    lower, short = {name.lower(): name for name in known}, got[:80].lower()
    around = [name for name in lower if len(short) > 2 and short in name]
    found = around if len(around) == 1 else difflib.get_close_matches(short, lower, n=1, cutoff=0.65)
    return lower[found[0]] if found else None
