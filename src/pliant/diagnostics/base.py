"""What every diagnostic is: a frozen dataclass over a pure function, which declares what it needs to see."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from pliant.network import Network, Params, Trace


class Observation(NamedTuple):
    """One network as diagnostics see it, on one batch; what no diagnostic asked for is None.

    `initial` are the parameters before training, `gradients` those of the training loss on the batch, `update` the
    latest change of the parameters, both of the trained ones alone; `earlier` is a trace of the same inputs at an
    earlier moment. `network`, `x`, `y` and `loss` are the function itself and its batch, for what differentiates it
    anew, with respect to `network.trained`. For sequences, `mask`, `(batch, tokens)` and boolean, is False at padding,
    which traces leave out as well (see `Network.trace`).

    >>> import torch
    >>> Observation({"weight": torch.ones(1)}).trace is None
    True
    """

    params: Params
    initial: Params | None = None
    trace: Trace | None = None
    gradients: Params | None = None
    update: Params | None = None
    earlier: Trace | None = None
    network: Network | None = None
    x: Any = None
    y: Any = None
    loss: Callable[[Any, Any], Tensor] | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Diagnostic(ABC):
    """A named measurement of one network; its fields are its settings.

    `needs` names the fields of `Observation` it reads beside `params`; `cost` is *economy* (one forward pass),
    *business* (one backward pass) or *full*; `reference` is a key of refs.bib; `healthy` says what it reads on a
    freshly drawn network (see `pliant.report.diagnostics`). `measure` is a pure function without branches on
    data, so that it runs under `vmap` for a population.

    >>> @dataclass(frozen=True)
    ... class LargestWeight(Diagnostic):
    ...     reference: ClassVar[str] = "lyle2024"
    ...     def measure(self, seen):
    ...         return {"largest_weight": max(p.abs().max() for p in seen.params.values())}
    >>> import torch
    >>> LargestWeight().measure(Observation({"weight": torch.tensor([1.0, -2.0])}))
    {'largest_weight': tensor(2.)}
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    cost: ClassVar[str] = "economy"
    healthy: ClassVar[str] = ""
    reference: ClassVar[str]

    @abstractmethod
    def measure(self, seen: Observation) -> dict[str, Tensor]:
        """Scalars by name: the whole network's under the diagnostic's name, a layer's or site's under `name/layer`."""
