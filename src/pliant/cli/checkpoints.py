"""Users' files: checkpoints that hold tensors and nothing that runs, functions that build modules, batches."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pliant.data.arrays import BROKEN, read_npz
from pliant.own import Built

MODEL = ("model", "state_dict", "model_state_dict")
OPTIMIZER = ("optimizer", "optimizer_state_dict")
KINDS = {  # torch's optimizers, by settings that they alone have and by their state
    torch.optim.Adam: ({"betas", "amsgrad"}, {"exp_avg", "exp_avg_sq"}),
    torch.optim.RMSprop: ({"alpha", "centered"}, {"square_avg"}),
    torch.optim.SGD: ({"dampening", "nesterov"}, set()),
}


@dataclass(frozen=True)
class Checkpoint:
    """A network's tensors by name, and the state dict of its optimizer, if there is one in the file."""

    tensors: dict[str, Tensor]
    optimizer: dict[str, Any] | None = None


def read(path: Path) -> Checkpoint:
    """A file of safetensors, or one for `torch.load(weights_only=True)`; `ValueError` with the reason for any other."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise ValueError(f"--checkpoint {path}: {error.strerror}") from None
    if head[8:9] == b"{":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"--checkpoint {path} is a damaged safetensors file: {error}") from None
        if not tensors:
            raise ValueError(f"--checkpoint {path} holds no tensors: write a model's state_dict()")
        return Checkpoint(_finite(path, tensors))
    return _found(path, _loaded(path))


def _loaded(path: Path) -> Any:
    """What a file of torch holds; one with anything but tensors and plain values is never loaded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript archives, which are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error)) or re.search(r"class (\S+)", str(error))
        if named is None:
            raise ValueError(f"--checkpoint {path} is neither a safetensors file nor a checkpoint of torch") from None
        raise ValueError(
            f"--checkpoint {path} holds a pickled {named[1]}, which loading would run: refused. Write "
            "torch.save(model.state_dict(), path) where it comes from"
        ) from None
    except Exception as error:
        raise ValueError(f"--checkpoint {path} cannot be read by torch: {line(error)}") from None


def _found(path: Path, content: Any) -> Checkpoint:
    """The state dicts among what a file holds."""
    what, optimizer = content, None
    if isinstance(content, Mapping) and not _is_state(content):
        key = next((key for key in MODEL if isinstance(content.get(key), Mapping)), None)
        what = content if key is None else content[key]
        optimizer = next((content[k] for k in OPTIMIZER if isinstance(content.get(k), Mapping)), None)
    if not isinstance(what, Mapping) or not _is_state(what):
        got = type(what).__name__
        if isinstance(what, Mapping):
            odd = next((f"{k!r}: {type(v).__name__}" for k, v in what.items() if not isinstance(v, Tensor)), "nothing")
            got += f" with {odd}"
        raise ValueError(
            f"--checkpoint {path}: expected a state dict, or a dict with one under {', '.join(MODEL)}, got {got}"
        )
    if optimizer is not None and not (optimizer.keys() >= {"state", "param_groups"} and optimizer["param_groups"]):
        raise ValueError(f"--checkpoint {path}: expected an optimizer's state_dict(), got {', '.join(optimizer)}")
    return Checkpoint(_finite(path, dict(what)), None if optimizer is None else dict(optimizer))


def _is_state(value: Mapping[Any, Any]) -> bool:
    return bool(value) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def _finite(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"--checkpoint {path}: {name!r} holds NaN or infinity: take an earlier checkpoint")
    return tensors


def plain(tensors: dict[str, Tensor], wanted: set[str] | None = None) -> dict[str, Tensor]:
    """Names without what `torch.compile` and distributed training put before them, unless they are as wanted.

    >>> list(plain({"module._orig_mod.weight": torch.ones(1)}))
    ['weight']
    """
    if wanted is not None and set(tensors) == wanted:
        return tensors
    names = {name.replace("_orig_mod.", ""): tensor for name, tensor in tensors.items()}
    while names and all(name.startswith("module.") for name in names) and set(names) != wanted:
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


def fill(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Loads a checkpoint into a module; `ValueError` with the first name that does not fit."""
    own = model.state_dict()
    tensors = plain(checkpoint.tensors, set(own))
    for name in (*own, *tensors):
        here, there = (tuple(t[name].shape) if name in t else None for t in (own, tensors))
        if here != there:
            said = "is not there" if there is None else f"has shape {there}"
            model_said = "is not there" if here is None else f"has shape {here}"
            raise ValueError(f"the checkpoint does not fit --model: {name!r} {said}, in the model it {model_said}")
    with torch.no_grad():
        model.load_state_dict(tensors)


def optimizer(state: dict[str, Any], model: nn.Module) -> torch.optim.Optimizer:
    """torch's optimizer whose state dict this is, told by its settings, holding the model's parameters.

    The file names no parameters: they are taken in the model's order, and their shapes must fit. `ValueError` where
    they do not, and for optimizers other than Adam, AdamW, RMSprop and SGD.
    """
    instead = "write --optimizer and --lr to do without it"
    groups, entries = state["param_groups"], state["state"]
    kept = set().union(*entries.values()) if entries else set()
    kinds = [k for k, (settings, held) in KINDS.items() if settings <= set(groups[0]) and (not kept or held <= kept)]
    if not kinds:
        raise ValueError(f"the optimizer's state is not that of torch's Adam, AdamW, RMSprop or SGD: {instead}")
    numbers = [number for group in groups for number in group["params"]]
    named = dict(model.named_parameters())
    trained = [p for p in named.values() if p.requires_grad]
    if all("param_names" in group for group in groups):
        names = plain({n: torch.empty(0) for group in groups for n in group["param_names"]}, set(named))
        params = [named[name] for name in names if name in named]
    else:
        params = list(named.values()) if len(numbers) == len(named) else trained
    if len(params) != len(numbers):
        raise ValueError(
            f"the optimizer's state is of {len(numbers)} parameters, the model has {len(named)}: {instead}"
        )
    owners = {p: name for name, p in named.items()}
    for number, p in zip(numbers, params, strict=True):
        for kind, value in entries.get(number, {}).items():
            if isinstance(value, Tensor) and kind != "step" and value.shape != p.shape:
                got = f"{kind} of shape {tuple(value.shape)} for {owners[p]!r} of shape {tuple(p.shape)}"
                raise ValueError(f"the optimizer's state does not fit the model, got {got}: {instead}")
    parts = iter(params)
    made = kinds[0]([{"params": [next(parts) for _ in group["params"]]} for group in groups], lr=1e-3)
    made.load_state_dict(state)
    return made


def ambiguous(state: dict[str, Any]) -> bool:
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
        reason = getattr(error, "strerror", None) or line(error)
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
    if y is not None and len(x) != len(y):
        raise ValueError(f"--data {path}: expected as many samples, got x of {len(x)} and y of {len(y)}")
    return x, y


def line(error: Exception) -> str:
    """The first line of an error's message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
