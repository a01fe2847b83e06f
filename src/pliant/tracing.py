"""What a module's forward passes show: every nonlinearity by name, and what the last linear map reads."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from pliant.levels import depth
from pliant.modules import penultimate
from pliant.nonlinear import NAMES, elementwise_modules
from pliant.sites import UNSEEN, Activity, Calls, Recorder, Site, uncompiled_parts


class Trace(NamedTuple):
    """What one forward pass showed: the output, the penultimate features and every nonlinearity by name.

    `features` is the input of the last linear map (a linear or convolution call, a product with a parameter) as
    `(samples, features)`: the tokens of a sequence are samples, an image that a convolution reads is one.
    """

    output: Any
    features: Tensor
    sites: dict[str, Site]


class Watched(NamedTuple):
    """What one forward pass left on its way, with its graph: the penultimate features and what left every site.

    `features` is the input of the last linear map as `(samples, features)`, as in `Trace`; the activations keep the
    shape they had.
    """

    output: Any
    features: Tensor
    activations: dict[str, Tensor]


class Tracer:
    """Watches forward passes of a module, and keeps what the first ones told of all later ones.

    Forward passes are handed over as functions of no arguments. See `Network` for what is seen of them.

    Attributes:
        module: whose passes they are.
        composites: its modules without parameters that act elementwise.
    """

    def __init__(self, module: nn.Module):
        self.module = module
        self.composites = elementwise_modules(module)
        self._axes: dict[str, int] | None = None  # of the sites, once asked for
        self._order: Sequence[str | None] | None = None  # of sites among nonlinear calls; empty where only hooks tell

    def trace(
        self,
        forward: Callable[[], Any],
        x: Any,
        axes: Mapping[str, int] | None = None,
        mask: Tensor | None = None,
        unit_size: bool = False,
    ) -> Trace:
        """All of a forward pass on `x`, detached: see `Network.trace`."""
        known = axes if axes is not None else self._axes
        recorder, output = self._recorded(forward, known or {}, mask, unit_size)
        if known is None and recorder.taken:
            found = self.axes(x)
            if any(found.get(site, axis) != axis for site, axis in recorder.taken.items()):
                recorder, output = self._recorded(forward, found, mask, unit_size)
        unseen = [n for n, m in self.module.named_modules() if isinstance(m, UNSEEN)]
        if unseen and not recorder.sites:
            raise ValueError(
                f"the nonlinearities of {type(self.module).__name__} are inside {', '.join(map(repr, unseen))}, where "
                "they cannot be seen: measure what needs none, as in diagnostics=(ParameterNorm(),), or another part"
            )
        if unseen:
            warnings.warn(f"the nonlinearities inside {', '.join(map(repr, unseen))} cannot be seen", stacklevel=3)
        if not recorder.sites:
            raise ValueError(
                f"no nonlinearity was seen in {type(self.module).__name__}: pliant sees torch functions "
                f"({', '.join(NAMES[:6])}, ...) called in the forward pass; call one of these, or wrap your own "
                "elementwise function in an nn.Module without parameters"
            )
        if idle := [name for name, site in recorder.sites.items() if not len(site.pre)]:
            warnings.warn(f"no sample of this batch reaches {listed(idle)}: not measured there", stacklevel=3)
        features = penultimate(recorder.features, self.module, recorder.unit_dim, mask)
        return Trace(output, features.detach(), recorder.sites)

    def _recorded(
        self, forward: Callable[[], Any], axes: Mapping[str, int], mask: Tensor | None, unit_size: bool
    ) -> tuple[Recorder, Any]:
        recorder = Recorder(self.composites, axes, mask, unit_size)
        with recorder.over(self.module):
            return recorder, forward()

    def axes(self, x: Any) -> dict[str, int]:
        """The axis along which the units of each site run, found on the first batch: see `Network.axes`."""
        if self._axes is None and not depth():
            from pliant.poking import find_axes

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    self._axes = find_axes(self.module, x)
                except Exception:  # of the module in double precision, say: measuring goes on
                    self._axes = {}
        return self._axes or {}

    def watch(self, params: Mapping[str, Tensor], forward: Callable[[], Any], cheap: Callable[[], Any]) -> Watched:
        """What lies on the way of a forward pass, with its graph: see `Network.watch`.

        The first pass is `forward`, of the module itself, whose hooks tell the names of the sites; later ones are
        `cheap`, which need not run the module, where calls in order tell them.
        """
        if not self._order:
            activity = Activity(self.composites)
            with activity.over(self.module):
                output = forward()
            self._order = activity.order or ()
            return Watched(output, penultimate(activity.features, self.module, activity.unit_dim), activity.posts)
        calls = Calls(params)
        with uncompiled_parts(), calls:
            output = cheap()
        activations = {name: post for name, post in zip(self._order, calls.posts, strict=True) if name is not None}
        return Watched(output, penultimate(calls.features, self.module, calls.unit_dim), activations)

    def forget(self) -> None:
        """The next pass tells the order of the sites anew: the modes of layers have changed, say."""
        self._order = None


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are.

    >>> listed(["a", "b", "c", "d", "e"])
    "'a', 'b', 'c', 'd' and 1 more"
    """
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(map(repr, names[:4])) + more
