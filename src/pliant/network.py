"""A network is a pure function and a dict of tensors."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vjp
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.overrides import TorchFunctionMode

from pliant.nets.dropout import Dropout

Params = dict[str, Tensor]

# fmt: off
_NAMES = [
    "relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "selu_", "celu", "celu_", "gelu",
    "silu", "mish", "softplus", "softsign", "tanh", "tanh_", "sigmoid", "sigmoid_", "logsigmoid", "hardtanh",
    "hardtanh_", "hardswish", "hardsigmoid", "prelu", "threshold", "threshold_", "tanhshrink", "softshrink",
    "hardshrink", "sin", "sin_", "cos", "cos_",
]
# fmt: on
_NONLINEARITIES = {getattr(place, name) for place in (F, torch, Tensor) for name in _NAMES if hasattr(place, name)}
_CONVOLUTIONS = {getattr(F, f"conv{t}{d}d") for t in ("", "_transpose") for d in (1, 2, 3)}
_NORMALISERS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _BatchNorm, _InstanceNorm)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_UNSEEN = (nn.RNNBase, nn.RNNCellBase, torch.jit.ScriptModule)


class Site(NamedTuple):
    """One call of a nonlinearity, as three `(samples, units)` matrices.

    A sample is an example, or an example at one position: a convolution's units are its channels and its samples run
    over batch and space; a transformer's samples run over batch and tokens.

    `pre` is what enters the nonlinearity, `post` what leaves it, `slope` its derivative d post / d pre, elementwise.
    """

    pre: Tensor
    post: Tensor
    slope: Tensor


class Trace(NamedTuple):
    """What one forward pass showed: the output, the penultimate features and every nonlinearity by name.

    `features` is the input of the last linear (or convolution) call, flattened to `(batch, features)`.
    """

    output: Any
    features: Tensor
    sites: dict[str, Site]


class Network:
    """Any `nn.Module` as a pure function of a dict of tensors.

    The module is copied; the one handed over is never touched. A factory (a function of no arguments that returns a
    module) may be given instead: fresh draws then call it, which is right for modules with an initialisation of their
    own (orthogonal weights, say); fresh draws of a module call `reset_parameters` of each of its layers.

    Raises `ValueError` for what is not a pure function: dropout that draws from the global stream, and batch
    normalisation that updates running statistics.

    Attributes:
        module: the copy.
        normalisers: names of the scales and offsets of normalisation layers.
        weights: names of the weight matrices and kernels.

    >>> net = Network(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
    >>> params = net.fresh(seed=0)
    >>> net(params, torch.ones(5, 2)).shape
    torch.Size([5, 1])
    >>> trace = net.trace(params, torch.ones(5, 2))
    >>> list(trace.sites), trace.sites["1"].pre.shape
    (['1'], torch.Size([5, 3]))
    """

    def __init__(self, module: nn.Module | Callable[[], nn.Module]):
        self._factory = None if isinstance(module, nn.Module) else module
        if callable(self._factory):
            with _seeded(0):
                module = self._factory()
        if not isinstance(module, nn.Module):
            raise ValueError(f"expected an nn.Module or a function that returns one, got {type(module).__name__}")
        self.module = copy.deepcopy(_uncompiled(module))
        _refuse_impure(self.module)
        self._composites = _elementwise_modules(self.module)
        self._stochastic = [name for name, m in self.module.named_modules() if isinstance(m, Dropout)]
        keys = {f"{name}.key".lstrip(".") for name in self._stochastic}
        self._buffers = {name: b for name, b in self.module.named_buffers() if name not in keys}
        self.normalisers = frozenset(
            f"{path}.{name}".lstrip(".")
            for path, layer in self.module.named_modules()
            if isinstance(layer, _NORMALISERS)
            for name, _ in layer.named_parameters(recurse=False)
        )
        self.weights = tuple(n for n, p in self.module.named_parameters() if p.ndim > 1 and n not in self.normalisers)

    @property
    def stochastic(self) -> bool:
        """Whether the forward pass draws random numbers (and then takes a `key`)."""
        return bool(self._stochastic)

    def params(self) -> Params:
        """A copy of the parameters of the module that was handed over."""
        return {name: p.detach().clone() for name, p in self.module.named_parameters()}

    def fresh(self, seed: int) -> Params:
        """New parameters drawn from the initial distribution, a function of `seed` alone; the global stream is kept.

        Drawn on the CPU in the module's own dtype, so that every device gets the same numbers.

        >>> net = Network(nn.Linear(2, 1))
        >>> torch.equal(net.fresh(3)["weight"], net.fresh(3)["weight"])
        True
        """
        with _seeded(seed):
            if self._factory is not None:
                module = _uncompiled(self._factory())
            else:
                module = copy.deepcopy(self.module).cpu()
                _redraw(module)
        return {name: p.detach().clone() for name, p in module.named_parameters()}

    def __call__(self, params: Params, x: Any, key: Tensor | None = None) -> Any:
        """The output for inputs `x`; `key` (member seed and step, both int64) seeds dropout, none turns it off."""
        return functional_call(self.module, self._tensors(params, key), (x,))

    def bound(self, params: Params) -> tuple[Callable[[Params, Any, Tensor | None], Any], Params]:
        """The network with these very tensors inside, for many calls: nothing is swapped in and out.

        Returns the function, called like the network itself, and the leaves to differentiate with respect to. They
        share storage with `params`, so what is written there is seen. Saves about 5 % of a step of 784-128-128-10.
        """
        module = copy.deepcopy(self.module)
        if self._buffers and params:
            like = next(iter(params.values()))
            module = module.to(like.device, like.dtype)
        leaves = {name: nn.Parameter(tensor) for name, tensor in params.items()}
        swapped = {id(old): leaves[name] for name, old in module.named_parameters()}
        for layer in module.modules():
            for name, old in layer._parameters.items():
                if old is not None:
                    layer._parameters[name] = swapped[id(old)]
        dropouts = [m for m in module.modules() if isinstance(m, Dropout)]
        no_key = torch.empty(0, dtype=torch.int64)

        def call(params: Params, x: Any, key: Tensor | None = None) -> Any:
            for dropout in dropouts:
                dropout.key = no_key if key is None else key
            return module(x)

        return call, dict(leaves)

    def trace(self, params: Params, x: Any) -> Trace:
        """The output with every nonlinearity's preactivation, activation and slope, by name; dropout is off.

        A site is named after the module it runs in: `"act"` for an `nn.ReLU` stored as `act`, `"block.relu"` for a
        call of `F.relu` in the forward of `block`; the second call under one name is `"act#2"`. Modules without
        parameters that act elementwise (a GELU written out) are one site. Works under `torch.vmap`.

        Raises `ValueError` if no nonlinearity was seen.
        """
        recorder = _Recorder(self._composites)
        with _uncompiled_parts(), _module_calls(self.module, recorder), recorder:
            output = functional_call(self.module, self._tensors(params, None), (x,))
        unseen = [n for n, m in self.module.named_modules() if isinstance(m, _UNSEEN)]
        if unseen:
            warnings.warn(f"the nonlinearities inside {', '.join(map(repr, unseen))} cannot be seen", stacklevel=2)
        if not recorder.sites:
            raise ValueError(
                f"no nonlinearity was seen in {type(self.module).__name__}: pliant sees torch functions "
                f"({', '.join(_NAMES[:6])}, ...) called in the forward pass; call one of these, or wrap your own "
                "elementwise function in an nn.Module without parameters"
            )
        if recorder.features is None:
            raise ValueError(
                f"no linear or convolution call was seen in {type(self.module).__name__}, so it has no features: "
                "write nn.Linear or F.linear(x, weight) for x @ weight.T"
            )
        return Trace(output, recorder.features, recorder.sites)

    def _tensors(self, params: Params, key: Tensor | None) -> Params:
        if self._buffers and params:  # they follow the parameters, as in module.to(device, dtype)
            like = next(iter(params.values()))
            kinds = {name: like.dtype if b.is_floating_point() else b.dtype for name, b in self._buffers.items()}
            params = {**params, **{name: b.to(like.device, kinds[name]) for name, b in self._buffers.items()}}
        if key is None or not self._stochastic:
            return params
        return {**params, **{f"{name}.key".lstrip("."): key for name in self._stochastic}}


def producers(module: nn.Module, example: Any) -> tuple[list[str], list[str]]:
    """Paths of the hidden linear and convolution layers, and names of the hidden sites that no such layer feeds.

    A hidden layer is one whose output a nonlinearity reads that further layers come after: one that squashes the output
    (a final `tanh`) does not count. The module may draw random numbers; the global stream is put back.

    >>> producers(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.ones(1, 2))
    (['0'], [])
    """
    if _uncompiled(module) is not module:
        raise ValueError("expected a module that is not compiled yet: write model = torch.compile(...) after the build")
    module = copy.deepcopy(module)
    recorder = _Recorder(_elementwise_modules(module))
    with torch.no_grad(), _seeded(0), _uncompiled_parts(), _module_calls(module, recorder), recorder:
        module(example)
    hidden = list(recorder.fed.items())[: recorder.hidden]
    return list(dict.fromkeys(p for _, p in hidden if p is not None)), [s for s, p in hidden if p is None]


class _Recorder(TorchFunctionMode):
    """Records nonlinearity calls; inside a handler the mode is off, so a call made of calls counts once."""

    def __init__(self, composites: set[nn.Module]):
        super().__init__()
        self.composites = composites
        self.stack: list[tuple[str, nn.Module]] = []
        self.inside: tuple[nn.Module, int] | None = None  # the composite whose inner calls are being skipped
        self.pending: tuple[str, Tensor, str | None] | None = None
        self.sites: dict[str, Site] = {}
        self.features: Tensor | None = None
        self.unit_dim = -1
        self.hidden = 0  # how many sites came before the last linear or convolution call
        self.outputs: list[tuple[str, Tensor]] = []  # of every linear and convolution module
        self.fed: dict[str, str | None] = {}  # site -> the module whose output it reads

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.linear or func in _CONVOLUTIONS:
            x = args[0] if args else kwargs["input"]
            self.unit_dim = -1 if func is F.linear else 1
            self.features = x.detach().flatten(1) if x.ndim > 1 else x.detach()
            self.hidden = len(self.sites)
            return func(*args, **kwargs)
        if func not in _NONLINEARITIES or self.inside is not None:
            return func(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        if not _has_units(x):
            return func(*args, **kwargs)
        rest = {k: v for k, v in kwargs.items() if k != "input"}
        before = x.detach().clone()
        source = self._source(x)
        post = func(*args, **kwargs)
        path, module = self.stack[-1] if self.stack else ("", None)
        name = path if module in self.composites and path else f"{path}.{func.__name__}".lstrip(".").rstrip("_")
        self._add(name, before, lambda t: func(t.clone(), *args[1:], **rest), source)
        return post

    def enter(self, path: str, module: nn.Module, args: tuple) -> None:
        self.stack.append((path, module))
        if module in self.composites and self.inside is None and len(args) == 1 and _has_units(args[0]):
            self.inside = (module, len(self.stack))
            self.pending = (path or type(module).__name__, args[0].detach().clone(), self._source(args[0]))

    def leave(self, module: nn.Module, output: Any) -> None:
        if self.inside == (module, len(self.stack)):
            if self.pending is not None and output is not None:  # None: it raised
                name, before, source = self.pending
                with torch._C.DisableTorchFunction():
                    self._add(name, before, lambda t: module.forward(t.clone()), source)
            self.inside = self.pending = None
        path, _ = self.stack.pop()
        if isinstance(module, LAYERS) and isinstance(output, Tensor):
            self.outputs.append((path, output))

    def _source(self, x: Tensor) -> str | None:
        return next((path for path, output in reversed(self.outputs) if output is x), None)

    def _add(self, name: str, pre: Tensor, function: Callable[[Tensor], Tensor], source: str | None) -> None:
        post, pullback = vjp(function, pre)  # type: ignore[misc]
        (slope,) = pullback(torch.ones_like(pre))
        dim = self.unit_dim if pre.ndim > 2 else -1
        site = Site(*(t.detach().movedim(dim, -1).flatten(0, -2) for t in (pre, post, slope)))
        count = sum(seen.split("#")[0] == name for seen in self.sites)
        name = f"{name}#{count + 1}" if count else name
        self.sites[name], self.fed[name] = site, source


@contextmanager
def _module_calls(root: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Tells the recorder which module is running; the hooks are gone afterwards, also after an exception."""
    handles = []
    for path, module in root.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue  # takes no hooks; its nonlinearities cannot be seen
        handles.append(module.register_forward_pre_hook(lambda m, args, path=path: recorder.enter(path, m, args)))
        handles.append(module.register_forward_hook(lambda m, args, out: recorder.leave(m, out), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The global stream, seeded for as long as layers draw from it, then put back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _uncompiled(module: nn.Module) -> nn.Module:
    """What `torch.compile` wraps: the compiled form hides activations and renames parameters."""
    return getattr(module, "_orig_mod", module)


def _uncompiled_parts() -> AbstractContextManager[Any]:
    """Runs compiled functions inside a module as they were written; nothing is compiled where no compiler is loaded."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _redraw(module: nn.Module) -> None:
    """Every layer's own initial distribution, inner layers first, as in a constructor."""
    owners: dict[Tensor, list[tuple[nn.Module, str]]] = {}
    for name, p in module.named_parameters(remove_duplicate=False):
        owners.setdefault(p, []).append((module.get_submodule(name.rpartition(".")[0]), name))
        p.data.fill_(torch.nan if p.is_floating_point() else 0)  # what stays NaN was drawn by nobody

    def reset(layer: nn.Module) -> None:
        own = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
        if own is not None:
            own()

    module.apply(reset)
    for p, layers in owners.items():
        layer, name = layers[0]
        if p.isnan().any():
            problem = f"no reset_parameters() draws {name!r} of {type(layer).__name__}"
        elif len({type(layer) for layer, _ in layers}) > 1:
            problem = f"{' and '.join(repr(n) for _, n in layers)} are one tensor, which layers of two kinds draw"
        else:
            continue
        raise ValueError(f"{problem}: write Network(lambda: make_model()) with a function that builds a new model")


def _has_units(x: Any) -> bool:
    """Whether this may be a batch of activations: not a lone vector (a learned deviation, say), nor whole numbers."""
    return isinstance(x, Tensor) and x.ndim > 1 and x.is_floating_point()


def _refuse_impure(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        kind = type(layer).__name__
        if isinstance(layer, _DropoutNd) and layer.training and layer.p > 0:
            raise ValueError(
                f"{kind} {name!r} draws from the global random stream, so the network is no function of its inputs: "
                "write pliant.nets.Dropout(p), or model.eval()"
            )
        if isinstance(layer, (_BatchNorm, _InstanceNorm)) and layer.training and layer.track_running_stats:
            raise ValueError(
                f"{kind} {name!r} updates running statistics, so the network is no function of its inputs: "
                f"write nn.{kind}(..., track_running_stats=False), or model.eval()"
            )


def _elementwise_modules(root: nn.Module) -> set[nn.Module]:
    """The modules without parameters that act on each number alone, not affinely: poked with numbers, not parsed."""
    x = torch.tensor([-30.0, -8.0, -3.0, -2.0, -1.0, -0.4, 0.3, 1.0, 2.0, 3.0, 8.0, 30.0]).reshape(3, 4)
    found = set()
    for module in root.modules():
        if any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
            continue
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                y, flipped, flat = module(x.clone()), module(x.flip(0, 1)), module(x.flatten()[:5].reshape(1, 5))
        except Exception:
            continue  # it does not take a plain matrix, so it is no elementwise function
        if not isinstance(y, Tensor) or y.shape != x.shape or not torch.equal(y.flip(0, 1), flipped):
            continue
        line = y[0, 0] + (y[-1, -1] - y[0, 0]) * (x + 30.0) / 60.0
        if torch.equal(flat.flatten(), y.flatten()[:5]) and not torch.allclose(y, line, rtol=1e-4, atol=1e-4):
            found.add(module)
    return found
