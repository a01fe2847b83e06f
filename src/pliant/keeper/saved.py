"""What `keeper.state_dict()` returns, looked at before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from pliant.interventions.base import Intervention


def refuse_foreign(saved: Any, chain: Sequence[Intervention]) -> None:
    """Raises `ValueError` for what is no state of a keeper, or that of another recipe.

    >>> refuse_foreign({"seed": 0}, ())
    Traceback (most recent call last):
    ValueError: expected what keeper.state_dict() returned, got seed
    """
    if not (isinstance(saved, dict) and saved.keys() >= {"members", "seed", "steps", "fired", "state"}):
        got = ", ".join(map(str, saved)) if isinstance(saved, dict) else type(saved).__name__
        raise ValueError(f"expected what keeper.state_dict() returned, got {got or 'an empty dict'}")
    members = [type(member).__name__ for member in chain]
    if saved["members"] != members and isinstance(saved["members"], (list, tuple)):
        raise ValueError(
            f"expected the state of {', '.join(members)}, got that of {', '.join(map(str, saved['members']))}: attach "
            "the same recipe"
        )
    wrong = [] if saved["members"] == members else ["members"]
    wrong += [name for name in ("seed", "steps") if not isinstance(saved[name], Integral) or saved[name] < 0]
    wrong += [] if isinstance(saved["fired"], (list, tuple, set)) else ["fired"]
    wrong += [name for name in ("state", "kept") if not _states(saved.get(name), len(members))]
    if wrong:
        raise ValueError(
            f"expected what keeper.state_dict() returned, got {type(saved[wrong[0]]).__name__} for {wrong[0]!r}"
        )


def _states(found: Any, size: int) -> bool:
    """Whether these are the states of so many members, or none."""
    if found is None:
        return True
    return (
        isinstance(found, (list, tuple))
        and len(found) == size
        and all(isinstance(t, Tensor) for t in tree_leaves(found))
    )
