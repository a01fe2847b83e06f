"""What trains: a trial owns its loop and its state, and hands over rows of numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from pliant.population import Population

Row = dict[str, Tensor]
"""Numbers of one moment by name, or arrays of fixed shape: `(members, *shape)`."""

refitted: ContextVar[Callable[[float], None]] = ContextVar("refitted", default=lambda steps: None)
"""Told by a measure that refits how many optimizer steps a seed it has taken since it told the last time."""


def telling(steps: float) -> Callable[[int, int], None]:
    """An `on_progress` that tells `refitted` of its share of so many steps.

    >>> told = []
    >>> before = refitted.set(told.append)
    >>> tell = telling(30)
    >>> tell(1, 3), tell(3, 3), refitted.reset(before)
    (None, None, None)
    >>> told
    [10.0, 20.0]
    """
    told = 0.0

    def on_progress(done: int, of: int) -> None:
        nonlocal told
        before, told = told, steps * done / of
        refitted.get()(told - before)

    return on_progress


class Run(NamedTuple):
    """A trial under way.

    Attributes:
        state: dicts, lists and dataclasses of tensors and plain numbers, of one structure throughout; `step` and
            `diverged_at` (the step at which each member lost its finite loss, -1 while it has) among them.
        rows: what is measured, from `state` on; `{}` where nothing was. At every yield all that changes is in `state`.
        populations: those whose mode is recorded.

    >>> from types import SimpleNamespace
    >>> Run(SimpleNamespace(step=0, diverged_at=[-1]), iter([{}])).populations
    ()
    """

    state: Any
    rows: Iterator[Row]
    populations: tuple[Population, ...] = ()


class Trial(Protocol):
    """A frozen dataclass, its own config: what it trains is a function of its fields and the seeds.

    At every yield of its rows all that changes is in the state, written in place, so that every yield is a place to
    stop; it yields about every 50 steps or more often. Random numbers are functions of (seed, purpose, step). All
    members have rows at the same steps, and all rows are of finished steps. `tests/trials` holds every trial to this.

    Attributes:
        num_steps: of `state.step`, in all.
        together: how many seeds are trained as one; part of the plan, so that results do not depend on the machine.
        refits: optimizer steps a seed that measurements take beside training, at most; for estimates.

    >>> class Nothing:
    ...     num_steps, together, refits = 0, 5, 0
    ...     def brief(self): return self
    ...     def start(self, seeds, device="cpu", dtype=torch.float32):
    ...         return Run(None, iter(()))
    >>> trial: Trial = Nothing()
    """

    @property
    def num_steps(self) -> int: ...

    @property
    def together(self) -> int: ...

    @property
    def refits(self) -> int: ...

    def brief(self) -> Trial:
        """The same with as few steps as give every column, to show mistakes."""
        ...

    def start(self, seeds: Sequence[int], device: str = "cpu", dtype: torch.dtype = torch.float32) -> Run:
        """The trial with some seeds, at its beginning; `ValueError` for what does not fit together."""
        ...
