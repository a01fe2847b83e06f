"""A network is a pure function and a dict of tensors."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pliant.adapter import How, adapted, aliases, bare, copied, inexact, uncheckpointed
from pliant.modules import NORMALISERS, factors, output_layers, redraw, refuse_another, refuse_impure, seeded
from pliant.nets.keyed import Keyed
from pliant.sites import Site as Site
from pliant.sites import arguments
from pliant.tracing import Trace, Tracer, Watched, listed

if TYPE_CHECKING:
    from pliant.units import UnitGroup

Params = dict[str, Tensor]
Forward = Callable[[Params, Any, Tensor | None], Any]


class Network:
    """Any `nn.Module` as a pure function of a dict of tensors.

    The module is copied (see `pliant.adapter`); the one handed over is never touched. The outputs and gradients are its
    own: buffers keep their dtype, unless parameters are handed over in another dtype than the module has; they then
    follow, as in `module.to(dtype)`. No call changes them.

    A factory (a function of no arguments that returns a module) may be given instead: fresh draws then call it, which
    is right for modules with an initialisation of their own (orthogonal weights, say); fresh draws of a module call
    `reset_parameters` of each of its layers.

    Raises `ValueError` for what is not a pure function: dropout that draws from the global stream, and batch
    normalisation that updates running statistics.

    Args:
        module: the module, or a function that makes it.
        example: a batch of inputs; with it the network knows its `units`.
        call: what the network computes where that is not the module's `forward`: the name of another method, or a
            function of the module and its inputs.
        fresh: the factory for fresh draws, beside a module.

    Attributes:
        module: the copy.
        names: of all parameters.
        normalisers: names of the scales and offsets of normalisation layers.
        trained: names of the parameters that are trained: all but frozen ones (`requires_grad=False`), or all where all
            are frozen, as those of a target network.
        head: names of the parameters of the output layer; needs `example`.
        mask: see `padded`.
        tracer: what watches its forward passes.

    >>> net = Network(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
    >>> params = net.fresh(seed=0)
    >>> net(params, torch.ones(5, 2)).shape
    torch.Size([5, 1])
    >>> trace = net.trace(params, torch.ones(5, 2))
    >>> list(trace.sites), trace.sites["1"].pre.shape
    (['1'], torch.Size([5, 3]))
    """

    def __init__(
        self,
        module: nn.Module | Callable[[], nn.Module],
        example: Any = None,
        call: How | None = None,
        fresh: Callable[[], nn.Module] | None = None,
    ):
        self.example = example
        self._factory = fresh if isinstance(module, nn.Module) else module
        made = self._built() if callable(self._factory) else module
        if not isinstance(made, nn.Module):
            raise ValueError(f"expected an nn.Module or a function that returns one, got {type(made).__name__}")
        self.module = adapted(module if isinstance(module, nn.Module) else made, call)
        if self._factory is not None:
            refuse_another(self.module, made)
        refuse_impure(self.module)
        self.tracer = Tracer(self.module)
        self._stochastic = [name for name, m in self.module.named_modules() if isinstance(m, Keyed)]
        keys = {f"{name}.key".lstrip(".") for name in self._stochastic}
        self._buffers = {name: b for name, b in self.module.named_buffers() if name not in keys}
        self._aliases = aliases(self.module)
        named = list(self.module.named_parameters())
        self._dtypes = {p.dtype: name for name, p in reversed(named)}  # the first parameter of each
        self.normalisers = frozenset(
            f"{path}.{name}".lstrip(".")
            for path, layer in self.module.named_modules()
            if isinstance(layer, NORMALISERS)
            for name, _ in layer.named_parameters(recurse=False)
        )
        self.names = tuple(name for name, _ in self.module.named_parameters())
        self.trained = tuple(n for n, p in self.module.named_parameters() if p.requires_grad) or self.names
        self._spare: nn.Module | None = None  # what fresh draws are made in
        self._part_of: Network | None = None
        self._said_unread = False
        self._whole_units = False
        self.mask: Tensor | None = None

    @property
    def stochastic(self) -> bool:
        """Whether the forward pass draws random numbers (and then takes a `key`)."""
        return bool(self._stochastic)

    def params(self) -> Params:
        """A copy of the parameters of the module that was handed over."""
        return {name: p.detach().clone() for name, p in self.module.named_parameters()}

    @cached_property
    def units(self) -> tuple[UnitGroup, ...]:
        """The hidden units: which entries of the parameters feed and read each (see `pliant.units`)."""
        from pliant.poking import find_units

        if self.example is None:
            raise ValueError("expected a batch of inputs to find the units with: write Network(module, example=x)")
        if self._part_of is not None:
            whole, names = self._part_of.units, set(self.names)
            if not self._whole_units:
                return tuple(u for u in whole if names.intersection(u.incoming))
            biases = [{weight: bias for weight, bias in u.biases.items() if bias in names} for u in whole]
            pairs = zip(whole, biases, strict=True)
            return tuple(replace(u, biases=mine) for u, mine in pairs if names.issuperset(u.touched))
        try:
            found = find_units(self.module, self.example)
        except (RuntimeError, TypeError, AttributeError) as error:
            try:
                self(self.params(), self.example)
            except Exception as cause:
                raise ValueError(f"the module cannot be called on the example: {cause}") from cause
            raise error
        self.say_unread()
        return found

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """Names of the matrices and kernels that a layer multiplies its input with.

        By the convention of torch: parameters of two axes and more called `weight`, alone or with more to the name
        (`in_proj_weight`, `weight_ih_l0`, that of a parametrisation), but for those of normalisation layers. With an
        `example`, also those of another name that enter a matrix product (the matrices of LoRA, say). Learned
        deviations, class tokens, position embeddings and layer scales are none: they are added, or scale.

        >>> Network(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))).weights
        ('0.weight', '2.weight')
        """
        if self._part_of is not None:
            return tuple(name for name in self._part_of.weights if name in self.names)
        known = set() if self.example is None else factors(self.module, self.example)
        known |= {name for name in self.names if "weight" in _own_name(name)}
        several = {name for name, p in self.module.named_parameters() if p.ndim > 1}
        return tuple(name for name in self.names if name in known & several - self.normalisers)

    def say_unread(self) -> None:
        """Warns, once, of the layers whose output no nonlinearity reads that is seen; needs `example`."""
        from pliant.unread import unread

        if self._part_of is not None:
            self._part_of.say_unread()
        elif not self._said_unread:
            self._said_unread = True
            if names := unread(self.module, self.example):
                warnings.warn(
                    f"no nonlinearity is seen between {listed(names)} and the next layer, so units there are neither "
                    "measured nor reset: where there is one, write it as torch.relu(x) or the like, or as an nn.Module "
                    "without parameters",
                    stacklevel=3,
                )

    @property
    def head(self) -> tuple[str, ...]:
        """Names of the parameters of the output layer, or of several where a network has several heads.

        >>> Network(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), example=torch.ones(1, 2)).head
        ('2.weight', '2.bias')
        """
        return tuple(name for name in self.names if name in self._last)

    @cached_property
    def _last(self) -> frozenset[str]:
        if self.example is None:
            raise ValueError("expected a batch of inputs to find the output layer: write Network(module, example=x)")
        return self._part_of._last if self._part_of is not None else output_layers(self.module, self.example)

    @property
    def whole(self) -> Network:
        """The network of which this is a part, or itself."""
        return self if self._part_of is None else self._part_of.whole

    def only(self, pattern: str) -> Network:
        """The same network, of which interventions touch only the parameters that match, such as `"hidden.*"`.

        Raises `ValueError` if none matches.

        >>> net = Network(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
        >>> net.only("2.*").names
        ('2.weight', '2.bias')
        """
        names = tuple(name for name in self.names if fnmatchcase(name, pattern))
        if not names:
            raise ValueError(f"expected a pattern that matches some of {', '.join(self.names)}, got {pattern!r}")
        return self.restricted(names)

    def restricted(self, names: Collection[str], whole_units: bool = False) -> Network:
        """The same network, of which interventions touch only these parameters.

        Of the units, those that some of these feed; with `whole_units`, those of which no entry is anywhere else.

        >>> net = Network(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), example=torch.ones(1, 2))
        >>> [len(net.restricted(["0.weight", "0.bias"], whole_units=w).units) for w in (False, True)]
        [1, 0]
        """
        part = copy.copy(self)
        part.__dict__.pop("units", None)
        part.__dict__.pop("weights", None)
        part._part_of, part._whole_units = self, whole_units
        part.names = tuple(name for name in self.names if name in names)
        part.trained = tuple(name for name in self.trained if name in names)
        part.normalisers = frozenset(name for name in self.normalisers if name in names)
        return part

    def padded(self, mask: Tensor | None) -> Network:
        """The same network, whose traces leave padding out where they are told of no other `mask` (see `trace`).

        >>> net = Network(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
        >>> seen = net.padded(torch.tensor([[True, False, False]])).trace(net.params(), torch.ones(1, 3, 2))
        >>> seen.features.shape
        torch.Size([1, 3])
        """
        part = copy.copy(self)
        part.mask = mask
        return part

    def hold(self, buffers: Params) -> None:
        """Puts these buffers in place of those that were copied: the running statistics of a later time, say.

        >>> net = Network(nn.BatchNorm1d(1).eval())
        >>> net.hold({"running_mean": torch.tensor([2.0])})
        >>> net(net.params(), torch.tensor([[2.0]])).item()
        0.0
        """
        self._buffers = {name: buffers.get(name, old) for name, old in self._buffers.items()}

    def fresh(self, seed: int, only: Collection[str] | None = None) -> Params:
        """New parameters drawn from the initial distribution, a function of `seed` alone; the global stream is kept.

        Drawn on the CPU in the module's own dtype, so that every device gets the same numbers. With `only`, names of
        parameters, just the layers that own them are drawn (other numbers than a draw of the whole network gives).

        >>> net = Network(nn.Linear(2, 1))
        >>> torch.equal(net.fresh(3)["weight"], net.fresh(3)["weight"])
        True
        """
        if self._factory is not None:
            module = self._built(seed)
        else:
            module = self._spare = self._spare or copied(self.module).cpu()
            with seeded(seed):
                redraw(module, only)
        return {n: p.detach().clone() for n, p in module.named_parameters() if only is None or n in only}

    def __call__(self, params: Params, x: Any, key: Tensor | None = None) -> Any:
        """The output for inputs `x`; `key` (member seed and step, both int64) seeds dropout, none turns it off."""
        if torch.compiler.is_compiling():  # which sees through checkpoints itself
            return self._called(params, x, key)
        with uncheckpointed():
            return self._called(params, x, key)

    def bound(self, params: Params) -> tuple[Callable[[Params, Any, Tensor | None], Any], Params]:
        """The network with these very tensors inside, for many calls: nothing is swapped in and out.

        Returns the function, called like the network itself, and the leaves to differentiate with respect to. They
        share storage with `params`, so what is written there is seen. Saves about 5 % of a step of 784-128-128-10.
        """
        module = copied(self.module)
        leaves: Params = {name: nn.Parameter(tensor, inexact(tensor)) for name, tensor in params.items()}
        for name, tensor in self._tensors(leaves, None).items():
            path, _, own = name.rpartition(".")
            layer = module.get_submodule(path)
            place: dict[str, Any] = layer._parameters if own in layer._parameters else layer._buffers
            place[own] = tensor
        keyed = [m for m in module.modules() if isinstance(m, Keyed)]
        no_key = torch.empty(0, dtype=torch.int64)

        def call(params: Params, x: Any, key: Tensor | None = None) -> Any:
            for layer in keyed:
                layer.key = no_key if key is None else key
            args, kwargs = arguments(x)
            with uncheckpointed():
                return module(*args, **kwargs)

        return call, dict(leaves)

    def trace(
        self,
        params: Params,
        x: Any,
        axes: Mapping[str, int] | None = None,
        mask: Tensor | None = None,
        unit_size: bool = False,
    ) -> Trace:
        """The output with every nonlinearity's preactivation, activation and slope, by name; dropout is off.

        A site is named after the module it runs in: `"act"` for an `nn.ReLU` stored as `act`, `"block.relu"` for a
        call of `F.relu` in the forward of `block`; the second call under one name is `"act#2"`. Modules without
        parameters that act elementwise (a GELU written out) are one site. Works under `torch.vmap`.

        Units run along `axes`, by site; by default, where `Network.axes` finds them. For sequences, `mask`, `(batch,
        tokens)` and boolean, is False at padding: features and sites are of the other tokens alone, where they have
        these two axes. A site that no sample reaches (an expert that gets no token) is named in a warning.

        With `unit_size`, sites show each nonlinearity on its units' inputs divided by their root mean square over the
        samples, and so of unit variance where their mean is 0; output and features are those of the network as it is.

        Raises `ValueError` if no nonlinearity was seen.
        """
        mask = self.mask if mask is None else mask
        return self.tracer.trace(lambda: self._called(params, x, None), x, axes, mask, unit_size)

    def axes(self, x: Any) -> dict[str, int]:
        """The axis of the activations of each site along which units run: along those of the layers that feed it.

        Found once, on a first batch outside `torch.vmap`; `x` is one. A site that is not named has its units along the
        channels after a convolution, along the last axis else.

        >>> net = Network(nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)))
        >>> net.axes(torch.ones(1, 1, 2, 2))
        {'1': 1}
        """
        return self.tracer.axes(x)

    def watch(self, params: Params, x: Any, key: Tensor | None = None, forward: Forward | None = None) -> Watched:
        """The output with the features and activations on the way, not detached: for penalties and resets.

        `forward` computes the output, where that is not the network itself (see `bound`). The first pass learns the
        names of the sites; where calls in order tell them, later passes need no hooks, which cost a lot in small nets.
        """
        call = forward or self
        return self.tracer.watch(params, lambda: self(params, x, key), lambda: call(params, x, key))

    def _called(self, params: Params, x: Any, key: Tensor | None) -> Any:
        return functional_call(self.module, self._tensors(params, key), *arguments(x), tie_weights=False)

    def _built(self, seed: int = 0) -> nn.Module:
        assert self._factory is not None
        with seeded(seed):
            made = self._factory()
        return bare(made) if isinstance(made, nn.Module) else made

    def _tensors(self, params: Params, key: Tensor | None) -> Params:
        """The parameters, copies of the buffers and the key, under every name that they have in the module."""
        if self._buffers and params:
            device = next(iter(params.values())).device
            to = {own: params[name].dtype for own, name in self._dtypes.items() if name in params}
            params = params | {n: b.to(device, to.get(b.dtype, b.dtype), copy=True) for n, b in self._buffers.items()}
        if self._aliases:
            params = params | {alias: params[name] for alias, name in self._aliases.items() if name in params}
        if key is None or not self._stochastic:
            return params
        return {**params, **{f"{name}.key".lstrip("."): key for name in self._stochastic}}


def _own_name(name: str) -> str:
    """What a parameter is called in its layer: `weight` for `0.weight` and for `0.parametrizations.weight.original`."""
    _, parametrised, own = name.rpartition("parametrizations.")
    return own.split(".")[0] if parametrised else name.rpartition(".")[2]
