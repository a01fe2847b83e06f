"""A user's model as the module that a network holds: a copy that nobody is told of, called as its owner calls it."""

from __future__ import annotations

import copy
import dis
import inspect
import threading
import warnings
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from itertools import pairwise
from traceback import walk_tb
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint
from torch.utils._pytree import tree_leaves

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
COMPUTING = ("torch", "pliant")  # packages whose hooks compute weights, or what was built in
How = str | Callable[..., Any]  # the name of a method, or a function of the model and its inputs


def bare(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, `nn.DataParallel` and `DistributedDataParallel`.

    >>> model = nn.Linear(1, 1)
    >>> bare(nn.DataParallel(model)) is model
    True
    """
    if not isinstance(model, nn.Module):
        got = model.__name__ if isinstance(model, type) else type(model).__name__
        line = f": write {got}(...)" if isinstance(model, type) else ""
        raise ValueError(f"expected an nn.Module, got {got}{line}")
    inner = getattr(model, "_orig_mod", model)
    if isinstance(inner, (nn.DataParallel, DistributedDataParallel)):
        inner = inner.module
    return model if inner is model else bare(inner)


def adapted(model: nn.Module, call: How | None = None) -> nn.Module:
    """A copy of a model with the names, modes and numbers of the original, whose gradients are plain tensors.

    Args:
        model: any module; compiled and distributed ones are seen through.
        call: what the copy does when it is called, where that is not `forward`: the name of another method, or a
            function of the model and its inputs.

    Raises `ValueError` for a `call` that is neither. A copy that has no `forward` raises one when it is called.

    >>> import torch
    >>> class Agent(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.actor = nn.Linear(2, 3)
    ...
    ...     def act(self, x):
    ...         return self.actor(x)
    >>> adapted(Agent(), call="act")(torch.ones(1, 2)).shape
    torch.Size([1, 3])
    """
    made = copied(bare(model))
    for layer in made.modules():
        if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
            layer.sparse = False
    if call is not None or not has_forward(made):
        redirect(made, call)
    return made


def has_forward(model: nn.Module) -> bool:
    """Whether a module can be called."""
    return "forward" in vars(model) or type(model).forward is not nn.Module.forward


def redirect(model: nn.Module, call: How | None) -> None:
    """Makes a module do something else when it is called (see `adapted`); `redirect_back` ends that."""
    if call is not None:
        refuse_unknown(model, call)
    model.forward = Called(model, call, vars(model).get("forward"))


def redirect_back(model: nn.Module) -> None:
    """Gives a module its own `forward` again."""
    before = vars(model).pop("forward").before
    if before is not None:
        model.forward = before


def refuse_unknown(model: nn.Module, call: Any) -> None:
    """Raises `ValueError` if a model cannot be called that way."""
    if isinstance(call, str) and not callable(getattr(model, call, None)):
        near = get_close_matches(call, methods(model), 1)
        meant = f", did you mean {near[0]!r}?" if near else f": it has {', '.join(methods(model)) or 'none'}"
        raise ValueError(f"expected call to be the name of a method of {type(model).__name__}, got {call!r}{meant}")
    if not isinstance(call, str) and not callable(call):
        raise ValueError(f"expected call to be the name of a method or a function (model, *inputs), got {call!r}")


def methods(model: nn.Module) -> list[str]:
    """Names of the public methods of a model's own classes, beside `forward`."""
    own = [cls for cls in type(model).__mro__ if issubclass(cls, nn.Module) and cls is not nn.Module]
    found = [n for cls in own for n, f in vars(cls).items() if inspect.isfunction(f) and not n.startswith("_")]
    return [name for name in dict.fromkeys(found) if name != "forward"]


def how_to_call(model: nn.Module) -> str:
    """The argument to write for a model without `forward`."""
    known = methods(model)
    if not known:
        return "call=lambda model, x: ... (its output for x)"
    return f"call={known[-1]!r}" + (f" (or one of {', '.join(known[:-1])})" if known[1:] else "")


class Called:
    """What a module does when it is called in place of its `forward`: another method, a function, or an error."""

    def __init__(self, model: nn.Module, how: How | None, before: Any = None):
        self.model, self.how, self.before = model, how, before

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.how is None:
            raise ValueError(f"{type(self.model).__name__} has no forward: write {how_to_call(self.model)}")
        if isinstance(self.how, str):
            return getattr(self.model, self.how)(*args, **kwargs)
        place = vars(self.model)
        redirected = place.pop("forward")  # so that the function may call the model itself
        if self.before is not None:
            place["forward"] = self.before
        try:
            return self.how(self.model, *args, **kwargs)
        finally:
            place["forward"] = redirected


def copied(model: nn.Module) -> nn.Module:
    """A copy that can be called without anyone noticing, whatever a forward pass has left behind in the model.

    Compiled functions are there as they were written. Hooks of others are left out, for they would be told of our
    forward passes; those that may change what a module returns are named in a warning.

    Raises `ValueError` if a module or tensor cannot be copied, or has no size yet.
    """
    if lazy := next((n for n, t in (*model.named_parameters(), *model.named_buffers()) if is_lazy(t)), None):
        raise ValueError(f"expected sizes that are known, got lazy {lazy}: call model(x) first")
    made, memo = duplicate(model)
    changing: list[str] = []
    for path, old in model.named_modules():
        new = memo.get(id(old))
        if not isinstance(new, nn.Module) or new is old:
            continue  # a module that copies itself in its own way
        for kind in HOOKS:
            hooks = getattr(new, kind)
            for key in [key for key, hook in hooks.items() if not _computes(hook)]:
                hook = hooks.pop(key)
                changing += [f"{_name(hook)} of {path or type(old).__name__!r}"] if _may_return(hook) else []
        for name, value in vars(old).items():
            if isinstance(value, FunctionType):
                vars(new)[name] = _rebound(value, memo)
        if "_original_forward" in vars(new):  # accelerate's, within its autocast
            vars(new)["forward"] = vars(new)["_original_forward"]
    if changing:
        warnings.warn(
            f"hooks are left out of the copy that is measured: {', '.join(changing)}; if one changes what a module "
            "returns, write that into its forward",
            stacklevel=2,
        )
    return made


def duplicate(model: nn.Module) -> tuple[nn.Module, dict[int, Any]]:
    """A deep copy with its hooks, and the copies by the `id` of their originals.

    Of a tensor that a forward pass left in an attribute, the values are copied without the graph; a lock, an open file
    and whatever else cannot be copied is shared.
    """
    shared: dict[int, Any] = {}
    while True:
        memo = dict(shared)
        try:
            with _WithoutGraphs():
                return copy.deepcopy(model, memo), memo
        except Exception as error:
            stuck = _stuck(error)
            if stuck is None or id(stuck) in shared or len(shared) > 1000 or isinstance(stuck, (nn.Module, Tensor)):
                what = type(model if stuck is None else stuck).__name__
                raise ValueError(f"{type(model).__name__} cannot be copied ({what}: {error})") from error
            shared[id(stuck)] = stuck


class _WithoutGraphs(TorchFunctionMode):
    """Tensors that are no leaves are copied as values."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            memo[id(tensor)] = made = tensor.detach().clone()
            return made
        return func(*args, **(kwargs or {}))


def _stuck(error: BaseException) -> Any:
    """What `copy.deepcopy` was at when it failed: the innermost object."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__) if frame.f_code is copy.deepcopy.__code__]
    return frames[-1].f_locals["x"] if frames else None


def _computes(hook: Any) -> bool:
    return (getattr(hook, "__module__", None) or "").split(".")[0] in COMPUTING


def _may_return(hook: Any) -> bool:
    """Whether the code of a hook returns anything but None."""
    inner = hook.func if isinstance(hook, partial) else hook
    inner = inner if hasattr(inner, "__code__") or isinstance(inner, MethodType) else type(inner).__call__
    code = getattr(inner, "__code__", None)
    if code is None:
        return False
    for before, step in pairwise(dis.get_instructions(code)):
        nothing = (before if step.opname == "RETURN_VALUE" else step).argval is None
        if step.opname == "RETURN_CONST" and not nothing:
            return True
        if step.opname == "RETURN_VALUE" and not (before.opname == "LOAD_CONST" and nothing):
            return True
    return False


def _name(hook: Any) -> str:
    return getattr(hook, "__qualname__", None) or type(hook).__name__


def _rebound(function: FunctionType, memo: dict[int, Any]) -> Any:
    """A function as it was before it was compiled, with the copy in place of the model that it closes over."""
    if (original := getattr(function, "_torchdynamo_orig_callable", None)) is not None:
        return _rebound(original, memo) if isinstance(original, FunctionType) else copy.deepcopy(original, memo)
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    owners = [c.__self__ if isinstance(c, MethodType) else c for c in cells]
    if not any(isinstance(owner, (nn.Module, Tensor)) and id(owner) in memo for owner in owners):
        return function
    closure = tuple(
        CellType(copy.deepcopy(cell, memo) if id(owner) in memo else cell)
        for cell, owner in zip(cells, owners, strict=True)
    )
    made = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, closure)
    made.__dict__.update(function.__dict__)
    return made


def aliases(module: nn.Module) -> dict[str, str]:
    """The other places of a module where a parameter or buffer is (tied weights, say), each with its first name.

    A layer that is in the module twice has one place.

    >>> tied = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    >>> tied[1].weight = tied[0].weight
    >>> aliases(tied), aliases(nn.Sequential(tied, tied))
    ({'1.weight': '0.weight'}, {'0.1.weight': '0.0.weight'})
    """
    first: dict[Tensor, str] = {}
    found: dict[str, str] = {}
    for path, layer in module.named_modules():
        for own, tensor in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)):
            name = f"{path}.{own}".lstrip(".")
            if first.setdefault(tensor, name) != name:
                found[name] = first[tensor]
    return found


class uncheckpointed:
    """Within, what is checkpointed keeps its activations, so that its gradient is that of the tensors in place now.

    `torch.utils.checkpoint` computes them anew in the backward pass, when `functional_call` has put the module's own
    tensors back, and it has no rules for `torch.func`. Numbers are the same either way.
    """

    _lock, _depth = threading.Lock(), 0
    _usual = checkpoint.CheckpointFunction, checkpoint._checkpoint_without_reentrant_generator

    def __enter__(self) -> None:
        with self._lock:
            uncheckpointed._depth += 1
            checkpoint.CheckpointFunction = _Plain  # type: ignore[misc]
            checkpoint._checkpoint_without_reentrant_generator = _plainly

    def __exit__(self, *_: object) -> None:
        with self._lock:
            uncheckpointed._depth -= 1
            if not uncheckpointed._depth:
                checkpoint.CheckpointFunction, checkpoint._checkpoint_without_reentrant_generator = self._usual  # type: ignore[misc]


class _Plain:
    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        return function(*args)


def _plainly(*args: Any, **kwargs: Any) -> Any:
    yield  # around the forward pass, once


def inexact(t: Tensor) -> bool:
    """Whether a tensor can have a gradient: it holds real or complex numbers.

    >>> import torch
    >>> inexact(torch.ones(1)), inexact(torch.arange(2))
    (True, False)
    """
    return t.is_floating_point() or t.is_complex()


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors of an output: also in what is no tree, such as a `torch.distributions.Distribution`.

    >>> import torch
    >>> tensors_of((torch.ones(1), torch.distributions.Normal(torch.zeros(2), torch.ones(2))))
    [tensor([1.]), tensor([0., 0.]), tensor([1., 1.])]
    """
    found, looked_at, left = [], set(), tree_leaves(output)
    while left:
        leaf = left.pop(0)
        if id(leaf) in looked_at:
            continue
        looked_at.add(id(leaf))
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif hasattr(leaf, "__dict__") and not callable(leaf):
            left += tree_leaves(dict(vars(leaf)))
    return found
