"""A checkpoint and the network that it is of: what builds it, whose tensors are whose, optimizers, batches."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pliant.adapter import aliases
from pliant.cli.saved import Checkpoint
from pliant.data.arrays import BROKEN, read_npz
from pliant.own import Built
from pliant.words import first_line

KINDS = {  # torch's optimizers, by settings that they alone have and by their state
    torch.optim.Adam: ({"betas", "amsgrad"}, {"exp_avg", "exp_avg_sq"}),
    torch.optim.RMSprop: ({"alpha", "centered"}, {"square_avg"}),
    torch.optim.SGD: ({"dampening", "nesterov"}, set()),
}


def plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without what `torch.compile` and distributed training put before them.

    >>> list(plain({"module._orig_mod.weight": torch.ones(1)}))
    ['weight']
    """
    names = {name.replace("_orig_mod.", ""): tensor for name, tensor in tensors.items()}
    while names and all(name.startswith("module.") for name in names):
        names = {name.removeprefix("module."): tensor for name, tensor in names.items()}
    return names


def builder(path: str, x: np.ndarray | None, tensors: dict[str, Tensor]) -> Callable[[], nn.Module]:
    """The function at an import path `package.module:build`; modules of the working directory can be imported.

    It takes nothing, or the shape of an input and the number of outputs, as `pliant run --set net=` has it: then those
    of `x`, and of the last tensor.
    """
    built = Built(path, "--model ")

    def build() -> nn.Module:
        if built.sized and x is None:
            raise ValueError(f"--model {path} takes the shape of an input: it needs --data batch.npz, which has it")
        last = list(tensors.values())[-1]
        return built(() if x is None else x.shape[1:], len(last) if last.ndim else 1)

    return build


def fill(model: nn.Module, checkpoint: Checkpoint) -> str:
    """Loads a checkpoint into a module; returns the prefix under which its tensors were found.

    Prefixes of any kind are seen through (`module.`, `_orig_mod.`, `model.`, `ema_model.`, `q_net.`), and tied tensors
    may be saved once. Raises `ValueError` with the first name that does not fit, and where several networks do.
    """
    own, tied = model.state_dict(), aliases(model)
    needed = set(own) - set(tied) - set(tied.values()) or set(own)
    tensors, prefix = dict(checkpoint.tensors), ""
    if not needed <= set(tensors) <= set(own):
        tensors = {name.replace("_orig_mod.", ""): tensor for name, tensor in tensors.items()}
        found = list(_prefixes(tensors, needed, set(own)))
        if len(found) > 1:
            raise ValueError(
                f"the checkpoint holds {len(found)} networks that fit --model, under {', '.join(found)}: write --key "
                f"{found[0]}"
            )
        if found:
            (prefix,) = found
            tensors = {n.removeprefix(f"{prefix}."): t for n, t in tensors.items() if n.startswith(f"{prefix}.")}
    for pair in tied.items():
        for here, there in (pair, pair[::-1]):
            if here in own and here not in tensors and there in tensors:
                tensors[here] = tensors[there]
    for name in (*own, *tensors):
        here, there = (tuple(t[name].shape) if name in t else None for t in (own, tensors))
        if here != there:
            said = "is not there" if there is None else f"has shape {there}"
            model_said = "is not there" if here is None else f"has shape {here}"
            raise ValueError(f"the checkpoint does not fit --model: {name!r} {said}, in the model it {model_said}")
    with torch.no_grad():
        model.load_state_dict(tensors)
    return prefix


def _prefixes(tensors: Mapping[str, Tensor], needed: set[str], own: set[str]) -> Iterator[str]:
    """Prefixes under which all needed names are, and none but the model's own."""
    first = min(needed)
    for prefix in [name.removesuffix(f".{first}") for name in tensors if name.endswith(f".{first}")]:
        under = {name.removeprefix(f"{prefix}.") for name in tensors if name.startswith(f"{prefix}.")}
        if needed <= under <= own:
            yield prefix


def optimizer(states: Sequence[Mapping[str, Any]], model: nn.Module) -> tuple[torch.optim.Optimizer, Mapping[str, Any]]:
    """torch's optimizer whose state dict is among these, told by its settings, with the model's parameters; the state.

    A state names no parameters: they are taken in the model's order or, of groups, as training scripts make them (those
    that decay, then biases and normalisers), and their shapes must fit. `ValueError` where none or several do, and for
    optimizers other than Adam, AdamW, RMSprop and SGD.
    """
    instead, made, errors = "write --optimizer and --lr to do without it", [], []
    for state in states:
        try:
            made.append((_rebuilt(state, model), state))
        except ValueError as error:
            errors.append(error)
    if len(made) > 1:
        raise ValueError(f"{len(made)} optimizers of the checkpoint fit the model: {instead}")
    if not made:
        raise ValueError(f"{errors[0]}: {instead}")
    return made[0]


def _rebuilt(state: Mapping[str, Any], model: nn.Module) -> torch.optim.Optimizer:
    groups, entries = state["param_groups"], state["state"]
    kept = set().union(*entries.values()) if entries else set()
    kinds = [k for k, (settings, held) in KINDS.items() if settings <= set(groups[0]) and (not kept or held <= kept)]
    if not kinds:
        raise ValueError("the optimizer's state is not that of torch's Adam, AdamW, RMSprop or SGD")
    owners = {p: name for name, p in model.named_parameters()}
    orders = [order for order in _orders(model, groups) if [*map(len, order)] == [len(g["params"]) for g in groups]]
    if not orders:
        numbers = sum(len(group["params"]) for group in groups)
        raise ValueError(f"the optimizer's state is of {numbers} parameters, the model has {len(owners)}")
    misfits = [_misfit(order, groups, entries, owners) for order in orders]
    if None not in misfits:
        raise ValueError(f"the optimizer's state does not fit the model, got {misfits[0]}")
    kind = torch.optim.AdamW if groups[0].get("decoupled_weight_decay") else kinds[0]
    made = kind([{"params": group} for group in orders[misfits.index(None)]], lr=1e-3)
    made.load_state_dict(dict(state))
    return made


def _orders(model: nn.Module, groups: Sequence[Mapping[str, Any]]) -> Iterator[list[list[nn.Parameter]]]:
    """The parameters of each group, as they may have been handed over."""
    named = dict(model.named_parameters())
    if all("param_names" in group for group in groups):
        told = [group["param_names"] for group in groups]
        for names in (told, [list(plain(dict.fromkeys(group, torch.empty(0)))) for group in told]):
            if all(name in named for group in names for name in group):
                yield [[named[name] for name in group] for group in names]
                return
    for params in ([*named.values()], [p for p in named.values() if p.requires_grad]):
        left = iter(params)
        cut = [list(islice(left, len(group["params"]))) for group in groups]
        yield [*cut[:-1], cut[-1] + [*left]]
    if len(groups) == 2:
        norms = {p for layer in model.modules() if "norm" in type(layer).__name__.lower() for p in layer.parameters()}
        unscaled = {p for name, p in named.items() if p in norms or "bias" in name.lower()}
        for apart in (unscaled, {p for p in named.values() if p.ndim < 2}):
            halves = [[p for p in named.values() if p.requires_grad and (p in apart) == part] for part in (False, True)]
            yield halves
            yield halves[::-1]


def _misfit(
    order: Sequence[Sequence[nn.Parameter]],
    groups: Sequence[Mapping[str, Any]],
    entries: Mapping[Any, Mapping[str, Any]],
    owners: Mapping[nn.Parameter, str],
) -> str | None:
    """The first number that an optimizer keeps whose shape is not its parameter's."""
    for params, group in zip(order, groups, strict=True):
        for p, number in zip(params, group["params"], strict=True):
            for kind, value in entries.get(number, {}).items():
                if isinstance(value, Tensor) and kind != "step" and value.shape != p.shape:
                    return f"{kind} of shape {tuple(value.shape)} for {owners[p]!r} of shape {tuple(p.shape)}"
    return None


def ambiguous(state: Mapping[str, Any]) -> bool:
    """Whether a state dict of Adam's kind does not say if its weight decay is Adam's or AdamW's."""
    group = state["param_groups"][0]
    return "amsgrad" in group and bool(group.get("weight_decay")) and "decoupled_weight_decay" not in group


def arrays(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The arrays `x` and, if there, `y` of an npz file, with as many samples."""
    try:
        found, names = read_npz(path, ("x", "y"))
    except zipfile.BadZipFile:
        raise ValueError(f"--data {path}: it is no npz file: write np.savez(path, x=x, y=y)") from None
    except (*BROKEN, OSError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ValueError(f"--data {path}: {reason}") from None
    x, y, there = found.get("x"), found.get("y"), ", ".join(names) or "nothing"
    if x is None:
        raise ValueError(f"--data {path}: expected an array x, got {there}: write np.savez(path, x=x, y=y)")
    for name, array in (("x", x), ("y", y)):
        if array is not None and (array.ndim == 0 or array.dtype.kind not in "biuf"):
            got = f"{array.dtype} of shape {array.shape}"
            raise ValueError(f"--data {path}: expected {name} to hold numbers, samples first, got {got}")
        if array is not None and not np.isfinite(array).all():
            raise ValueError(f"--data {path}: {name} holds NaN or infinity")
    if len(x) > 1 and (x == x[:1]).all():
        raise ValueError(
            f"--data {path}: all {len(x)} inputs in x are equal, as in the empty replay buffer of an agent that was "
            "loaded: let it play, and save what it sees"
        )
    if y is not None and len(x) != len(y):
        raise ValueError(f"--data {path}: expected as many samples, got x of {len(x)} and y of {len(y)}")
    return x, y
