"""What networks that were never trained read on the same probe: the number that a number is compared with."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pliant.diagnostics import Diagnostic
from pliant.monitor.once import Once
from pliant.monitor.sinks import Row
from pliant.monitor.subject import Subject
from pliant.network import Params
from pliant.words import first_line

DRAWS = 3  # fresh networks, of whose numbers the mean is taken
SURE = 64  # examples; on fewer, healthy units look dead and linear, too
MOMENTS = {"update", "earlier"}  # what compares two moments of a training says nothing of a fresh network
FAR = {  # shares of units above which a fresh network is not healthy, and where that comes from
    "dead": "inputs or initial biases leave units off",
    "linearized": "small inputs use no more of a smooth nonlinearity than its linear part, large biases one branch of "
    "a ReLU: standardize the inputs, and see linearized_at_unit_size",
    "saturated": "large inputs or initial weights leave units flat: standardize the inputs",
}
MOST = 1 / 3


def fresh(subject: Subject, draws: int = DRAWS) -> Iterator[Params]:
    """Parameters of networks that were never trained; what is not trained stays as it is.

    Raises `ValueError` where a layer cannot be drawn, with the line to write.
    """
    network, live = subject.network(), subject.params()
    for seed in range(draws):
        drawn = network.fresh(seed)
        yield {name: drawn[name].to(p) if name in network.trained else p for name, p in live.items()}


def reference(subject: Subject, diagnostics: Iterable[Diagnostic], draws: int = DRAWS) -> dict[str, list[float]]:
    """Every number of some diagnostics on each of a few fresh networks; one that fails there has none.

    >>> from torch import nn
    >>> from pliant.diagnostics import ParameterNorm
    >>> subject = Subject(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.ones(4, 2), None, False)
    >>> reference(subject, [ParameterNorm()], draws=2)["norm_ratio"]
    [1.0, 1.0]
    """
    asked = [diagnostic for diagnostic in diagnostics if not diagnostic.needs & MOMENTS]
    found: dict[str, list[float]] = {}
    if not asked:
        return found
    needs = frozenset[str]().union(*(diagnostic.needs for diagnostic in asked))
    for params in fresh(subject, draws):
        seen = subject.observe(needs, {"initial": params}, params)
        for diagnostic in list(asked):
            try:
                numbers = diagnostic.measure(seen)
            except Exception:  # is told of the network itself
                asked.remove(diagnostic)
                continue
            for name, value in numbers.items():
                found.setdefault(name, []).append(float(torch.as_tensor(value)))
    return {name: values for name, values in found.items() if len(values) == draws}


def means(found: dict[str, list[float]]) -> Row:
    """The mean of each number over the fresh networks."""
    return {name: sum(values) / len(values) for name, values in found.items()}


def far(subject: Subject, row: Row) -> list[str]:
    """What to say of fresh networks that are not healthy before any training."""
    sizes = [len(t) for t in tree_leaves(subject.x) if isinstance(t, Tensor) and t.ndim]
    return [
        f"fresh networks read {name} {row[name]:.2f} on this probe, before any training ({why}): compare with "
        f"fresh/{name}, not with 0"
        for name, why in FAR.items()
        if min(sizes, default=0) >= SURE and row.get(name, 0.0) > MOST
    ]


class References:
    """The references of a monitor's numbers, each measured once.

    Attributes:
        known: numbers that rows have already, by column; a reference that is among them is not told again.
    """

    def __init__(self):
        self.known: Row = {}
        self._measured: set[Diagnostic] = set()

    def forget(self) -> None:
        """All are measured anew: the layers are others."""
        self._measured.clear()

    def __call__(self, subject: Subject, measured: Sequence[Diagnostic], row: Row, once: Once) -> Row:
        """References of the numbers of a row, `fresh/<name>`, of the diagnostics that have none yet."""
        if not (new := [diagnostic for diagnostic in measured if diagnostic not in self._measured]):
            return {}
        self._measured |= set(new)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of networks that are not the user's
                found = means(reference(subject, new))
        except Exception as error:
            problem = first_line(error).partition(": write")[0]
            once("fresh", f"the numbers have no fresh reference ({problem}): write fresh=make_model")
            return {}
        for said in far(subject, found):
            once(f"far: {said}", said)
        named = {f"fresh/{name}": value for name, value in found.items() if name in row}
        return {name: value for name, value in named.items() if self.known.get(name) != value}
