"""Finding the unit map by poking a network, not by parsing its code.

One forward pass is run at a generic point (random parameters, random inputs, and random numbers in place of what every
nonlinearity returns, which cuts the network at its sites). An entry *feeds* a unit if only that unit's preactivation
moves with it; it *reads* a unit if it multiplies that unit's activation and no other's. Both are read off gradients
with three random codes a unit: where the ratio of two codes names a unit, and the third agrees, the entry belongs to
that unit alone. What has statistics of its own that the map should hold fixed (a normaliser) is listed in `FROZEN`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from pliant.nets.dropout import Dropout
from pliant.sites import CONVOLUTIONS, Watch, arguments, elementwise_modules, uncompiled
from pliant.units import Entries, Tensors, Units

PLACE, CODE = 1e-4, 1e-6  # agreement of the codes in float64: absolute of the place, relative of the third


def find_units(module: nn.Module, example: Any) -> tuple[Units, ...]:
    """The unit map of a module, from one batch of inputs; the module and the global random stream are left alone.

    Warns about sites whose units no parameters feed or read one by one; they have no entry in the map.

    >>> (units,) = find_units(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.ones(1, 2))
    >>> units.name, units.size, list(units.incoming), list(units.outgoing), units.exact
    ('1', 3, ['0.weight', '0.bias'], ['2.weight'], True)
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(0)
        poked = Poked(uncompiled(module), example)
        found = [poked.units(group) for group in poked.groups()]
    claimed = {site for units in found for site, _ in units.sites}
    if lost := [name for name in poked.hidden if name not in claimed]:
        warnings.warn(
            f"no weights feed the units of {', '.join(lost)} one by one, so they are left alone", stacklevel=3
        )
    return tuple(found)


@dataclass
class _Group:
    """Sites fed by the same entries."""

    sites: dict[str, int]  # name -> axis
    size: int
    incoming: dict[str, Tensor]  # codes


class _Poke(Watch):
    """Cuts the network at every site: what leaves is a number of our own, what enters is kept."""

    def __init__(self, composites: set[nn.Module], leaves: Tensors, silent: frozenset[str], freeze: bool):
        super().__init__(composites)
        self.leaves, self.silent, self.freeze = leaves, silent, freeze
        self.pres: Tensors = {}
        self.silenced: Tensors = {}
        self.axes: dict[str, int] = {}

    def saw(self, name: str, x: Tensor, before: Tensor, post: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        if name not in self.leaves:
            self.leaves[name] = torch.randn(post.shape, dtype=post.dtype).requires_grad_()
        self.pres[name] = before
        self.axes[name] = self.unit_dim % before.ndim
        if name in self.silent:
            self.silenced[name] = torch.zeros_like(post).requires_grad_()
        return self.silenced[name] if name in self.silent else self.leaves[name]

    def keep(self, x: Tensor) -> Tensor:
        return x.clone()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if (func is F.linear or func in CONVOLUTIONS) and args and args[0].is_floating_point():
            args = (args[0].to(args[1].dtype if len(args) > 1 else torch.float64), *args[1:])  # it was cast on its way
        if self.freeze and func in FROZEN:
            return FROZEN[func](*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)


def _frozen(x: Tensor, weight: Tensor | None, bias: Tensor | None, axes: list[int]) -> Tensor:
    """A normaliser whose statistics do not move, at a generic point: (x + something) * weight + bias."""
    shape = [x.shape[d] if d in axes else 1 for d in range(x.ndim)]
    y = x + torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(3))
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def _last_axes(input: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: Any = None) -> Tensor:
    return _frozen(input, weight, bias, list(range(input.ndim - len(normalized_shape), input.ndim)))


def _rms_norm(input: Tensor, normalized_shape: Any, weight: Any = None, eps: Any = None) -> Tensor:
    return _last_axes(input, normalized_shape, weight)


def _group_norm(input: Tensor, num_groups: int, weight: Any = None, bias: Any = None, eps: Any = None) -> Tensor:
    return _frozen(input, weight, bias, [1])


def _over_batch(
    input: Tensor, mean: Any = None, var: Any = None, weight: Any = None, bias: Any = None, *_: Any, **named: Any
) -> Tensor:
    return _frozen(input, named.get("weight", weight), named.get("bias", bias), [1])


FROZEN: dict[Any, Callable[..., Tensor]] = {  # functions with statistics, as they are where these do not move
    F.layer_norm: _last_axes,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.batch_norm: _over_batch,
    F.instance_norm: _over_batch,
}


class Poked:
    """A module at a generic point, and what moves with what there."""

    def __init__(self, module: nn.Module, example: Any):
        self.module = copy.deepcopy(module).cpu().double().eval()
        for layer in self.module.modules():
            if isinstance(layer, Dropout):
                layer.key = torch.empty(0, dtype=torch.int64)
        self.composites = elementwise_modules(self.module)
        self.params = {
            name: torch.randn(p.shape, dtype=torch.float64).div_(max(1, p.numel() // max(1, len(p))) ** 0.5)
            if p.ndim > 1
            else torch.randn(p.shape, dtype=torch.float64)
            for name, p in self.module.named_parameters()
            if p.is_floating_point()
        }
        self.params = {name: p.requires_grad_() for name, p in self.params.items()}
        self.normalisers = {
            f"{path}.{name}".lstrip(".")
            for path, layer in self.module.named_modules()
            if "Norm" in type(layer).__name__
            for name, p in layer.named_parameters(recurse=False)
        }
        self.x = _generic(example)
        self.leaves: Tensors = {}
        self.poke, self.output = self.run()
        self.moving, _ = self.run(freeze=False)
        self.hidden = list(self.poke.pres)[: self.poke.hidden]
        self._codes: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def run(
        self,
        params: Tensors | None = None,
        silent: frozenset[str] = frozenset(),
        freeze: bool = True,
        leaves: Tensors | None = None,
    ) -> tuple[_Poke, Tensor]:
        """One forward pass, cut at every site, and everything the network computes from its pieces as one number."""
        poke = _Poke(self.composites, self.leaves if leaves is None else leaves, silent, freeze)
        with torch.enable_grad(), poke.over(self.module):
            output = functional_call(self.module, self.params if params is None else params, *arguments(self.x))
        return poke, _number(output)

    def codes(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Three random codes a unit, the ratio of the second to the first being its place: 1, 2, 3, ..."""
        if size not in self._codes:
            first = torch.rand(size, dtype=torch.float64) + 0.5
            place = torch.arange(1, size + 1, dtype=torch.float64)
            self._codes[size] = (first, first * place, torch.rand(size, dtype=torch.float64) + 0.5)
        return self._codes[size]

    def owners(self, gradients: Callable[[], list[Tensors]], size: int) -> Tensors:
        """The unit each entry belongs to alone, by parameter, for the parameters that have any.

        Of millions of entries, a few have gradients that cancel to rounding errors: those are looked at again.
        """
        found = self.decode(gradients(), size)
        if any(0 < (codes < 0).sum() < 0.01 * codes.numel() for codes in found.values()):
            again = self.decode(gradients(), size)
            found = {n: torch.where(codes < 0, again.get(n, codes), codes) for n, codes in found.items()}
        return found

    def decode(self, gradients: list[Tensors], size: int) -> Tensors:
        """The unit that the gradients with three codes name, by parameter."""
        first, _, third = self.codes(size)
        found = {}
        for name, one in gradients[0].items():
            two, three = gradients[1][name], gradients[2][name]
            scale = torch.stack([one, two, three]).abs().amax()
            if scale == 0:
                continue
            there = one.abs() > 1e-12 * scale
            place = torch.where(there, two / torch.where(there, one, 1.0), 0.0)
            unit = place.round().long() - 1
            valid = there & (unit >= 0) & (unit < size) & ((place - place.round()).abs() < PLACE)
            expected = (third / first)[unit.clamp(0, size - 1)] * one
            valid &= (expected - three).abs() <= CODE * three.abs()
            if valid.any():
                found[name] = torch.where(valid, unit, -1)
        return found

    def feeding(self, site: str, axis: int, poke: _Poke) -> Tensors:
        """The entries that move one unit of a site alone."""
        pre = poke.pres[site]

        def gradients() -> list[Tensors]:
            weighted = pre * torch.randn(pre.shape, dtype=torch.float64)
            codes = [_along(code, axis, pre.ndim) for code in self.codes(pre.shape[axis])]
            return [self.gradient((weighted * code).sum(), self.params) for code in codes]

        return self.owners(gradients, pre.shape[axis])

    def gradient(self, of: Tensor, tensors: Tensors, create_graph: bool = False) -> Tensors:
        """Gradients by name, zero where there is none."""
        if not tensors:
            return {}
        if not of.requires_grad:
            return {name: torch.zeros_like(t) for name, t in tensors.items()}
        found = torch.autograd.grad(
            of, list(tensors.values()), retain_graph=True, create_graph=create_graph, allow_unused=True
        )
        return {
            name: torch.zeros_like(t) if g is None else g for (name, t), g in zip(tensors.items(), found, strict=True)
        }

    def groups(self) -> list[_Group]:
        """Hidden sites with the entries that feed them; sites that share entries are one group."""
        groups: list[_Group] = []
        for site in self.hidden:
            pre = self.poke.pres[site]
            axes = dict.fromkeys([self.poke.axes[site], pre.ndim - 1, *range(1, pre.ndim)])
            for axis in axes:
                if pre.shape[axis] < 2 and len(axes) > 1 and axis != self.poke.axes[site]:
                    continue
                incoming = self.feeding(site, axis, self.poke)
                if any(self.params[name].ndim > 1 for name in incoming):
                    break
            else:
                continue
            size = pre.shape[axis]
            joined = next((g for g in groups if g.size == size and _agree(g.incoming, incoming)), None)
            if joined is None:
                groups.append(_Group({site: axis}, size, incoming))
            else:
                joined.sites[site] = axis
                joined.incoming = {**incoming, **joined.incoming}
        return groups

    def units(self, group: _Group) -> Units:
        """What reads the units of a group, and what a reset would do to the rest of the network."""
        own = frozenset(group.sites)
        poke, output = self.run(silent=own)
        reading = self.reading(group, poke, output)
        asked = {name: self.params[name] for name in {**reading, **group.incoming}}
        without = self.gradient(self.rest(poke, output), asked)
        free = {name: torch.where(without[name] == 0, codes, -1) for name, codes in reading.items()}
        candidates = {name: codes for name, codes in free.items() if (codes >= 0).any()}
        outgoing = self.silencing(
            group, {n: codes for n, codes in candidates.items() if self.harmless(group, n, codes)}
        )
        elsewhere = self.gradient(self.rest(poke, output, but=own), asked)
        leaks = any(((elsewhere[name] != 0) & (codes >= 0)).any() for name, codes in group.incoming.items())
        incoming = {n: Entries(c, group.size) for n, c in group.incoming.items() if n not in self.normalisers}
        site, axis = next(iter(group.sites.items()))
        alone = self.feeding(site, axis, self.moving)
        mixed = any(
            name not in alone or (alone[name] == codes).double().mean() < 0.5
            for name, codes in group.incoming.items()
            if name in incoming and self.params[name].ndim > 1
        )
        return Units(
            name=site,
            sites=tuple(group.sites.items()),
            size=group.size,
            incoming=incoming,
            normaliser={n: Entries(c, group.size) for n, c in group.incoming.items() if n in self.normalisers},
            outgoing={name: Entries(codes, group.size) for name, codes in outgoing.items()},
            biases={name: bias for name in outgoing if (bias := self.bias(name)) is not None},
            exact=not leaks and not self.dependence(group, outgoing, freeze=False).any(),
            shared_statistics=mixed,
        )

    def rest(self, poke: _Poke, output: Tensor, but: frozenset[str] = frozenset()) -> Tensor:
        """The output and what enters every site but some, as one generic number."""
        total = output
        generator = torch.Generator().manual_seed(1)
        for site, pre in poke.pres.items():
            weight = torch.randn(pre.shape, dtype=torch.float64, generator=generator)
            total = total if site in but else total + (pre * weight).sum()
        return total

    def reading(self, group: _Group, poke: _Poke, output: Tensor) -> Tensors:
        """The entries that multiply one unit's activation alone, seen where all of them are silent.

        There the derivative by an entry and an activation is not zero for an entry that reads this activation only,
        whatever comes after.
        """
        slopes = self.gradient(self.rest(poke, output), poke.silenced, create_graph=True)

        def gradients() -> list[Tensors]:
            weighted = {site: slope * torch.randn(slope.shape, dtype=torch.float64) for site, slope in slopes.items()}

            def coded(code: Tensor) -> Tensor:
                parts = [(weighted[s] * _along(code, axis, weighted[s].ndim)).sum() for s, axis in group.sites.items()]
                return torch.stack(parts).sum()

            return [self.gradient(coded(code), self.params) for code in self.codes(group.size)]

        return self.owners(gradients, group.size)

    def dependence(self, group: _Group, zeroed: Tensors, freeze: bool = True) -> Tensor:
        """How much the rest of the network depends on each unit with some entries set to 0."""
        params = {n: torch.where(zeroed[n] >= 0, 0.0, p) if n in zeroed else p for n, p in self.params.items()}
        slopes = self.gradient(self.rest(*self.run(params, freeze=freeze)), {s: self.leaves[s] for s in group.sites})
        parts = [slopes[site].movedim(axis, -1).flatten(0, -2).abs().amax(0) for site, axis in group.sites.items()]
        return torch.stack(parts).amax(0)

    def harmless(self, group: _Group, name: str, codes: Tensor) -> bool:
        """Whether the entries of some units, silent, can be 0 while all else stays: no norm of the weights is taken."""
        half = torch.arange(group.size) % 2 == 0
        leaves = dict(self.leaves)
        for site, axis in group.sites.items():
            leaves[site] = torch.where(_along(half, axis, leaves[site].ndim), 0.0, leaves[site])
        zeroed = torch.where((codes >= 0) & half[codes], 0.0, self.params[name])
        before, after = (
            self.rest(*self.run(params, freeze=False, leaves=leaves))
            for params in (self.params, {**self.params, name: zeroed})
        )
        return torch.allclose(before, after, rtol=1e-9)

    def silencing(self, group: _Group, candidates: Tensors) -> Tensors:
        """The fewest candidates that, set to 0, take the units out of the network, or as far out as they can be."""
        for name, codes in candidates.items():
            if self.params[name].ndim > 1 and not self.dependence(group, {name: codes}).any():
                return {name: codes}
        chosen: Tensors = {}
        left = self.dependence(group, chosen)
        for name, codes in candidates.items():
            now = self.dependence(group, {**chosen, name: codes})
            if not torch.equal(now, left):
                chosen[name], left = codes, now
        return chosen

    def bias(self, weight: str) -> str | None:
        """The bias beside a weight whose first axis it runs along."""
        name = weight.removesuffix("weight") + "bias"
        fits = weight.endswith("weight") and name in self.params
        return name if fits and self.params[name].shape == self.params[weight].shape[:1] else None


def _agree(a: Tensors, b: Tensors) -> bool:
    """Whether two sites are fed by some entry in common, unit by unit."""
    return any(((a[name] >= 0) & (a[name] == codes)).any() for name, codes in b.items() if name in a)


def _along(code: Tensor, axis: int, ndim: int) -> Tensor:
    shape = [1] * ndim
    shape[axis] = len(code)
    return code.reshape(shape)


def _number(output: Any) -> Tensor:
    """A generic combination of every number of an output."""
    generator = torch.Generator().manual_seed(2)
    leaves = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
    return torch.stack([(t * torch.randn(t.shape, dtype=t.dtype, generator=generator)).sum() for t in leaves]).sum()


def _generic(example: Any) -> Any:
    """Random inputs of the same kind and shape, two examples of them where there are more.

    Of several inputs, those as long as the first are taken to run over the same examples.
    """
    (first, *_) = [len(x) for x in tree_leaves(example) if isinstance(x, Tensor) and x.ndim] or [0]

    def one(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        x = (x[:2] if x.ndim and len(x) == first else x).cpu()
        return torch.randn(x.shape, dtype=torch.float64) if x.is_floating_point() else x

    return tree_map(one, example)
