"""Files that others have saved: tensors by name and the states of optimizers; nothing in them is ever run."""

from __future__ import annotations

import io
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from pliant.words import first_line

MODEL = ("model", "state_dict", "model_state_dict")
OPTIMIZER = ("optimizer", "optimizer_state_dict", "optimizer_states")  # the last is Lightning's, a list
POLICY = "policy.pth"  # what tells an archive of Stable-Baselines3
SHARDS = "model.safetensors.index.json"
EXPANDS = 10  # times; tensors in an archive do not compress by as much
SMALL = 1 << 16  # bytes; names and pickles of structure may


@dataclass(frozen=True)
class Checkpoint:
    """A network's tensors by name, and the state dicts of the optimizers that are saved beside it."""

    tensors: dict[str, Tensor]
    optimizers: tuple[dict[str, Any], ...] = ()


def read(path: Path, key: str | None = None) -> Checkpoint:
    """A file of safetensors or of `torch.save`, an archive of Stable-Baselines3, or a folder of Hugging Face.

    Args:
        path: the file or folder. Of archives and pickles, tensors and plain values are read, and nothing else.
        key: where the network is in it, as in `agent.actor`: names of nested dicts, then what the names of its tensors
            begin with.

    Raises `ValueError` with the reason for whatever cannot be read.
    """
    where = f"--checkpoint {path}"
    if path.is_dir():
        content = _folder(path, where)
    else:
        try:
            with path.open("rb") as file:
                head = file.read(16)
        except OSError as error:
            raise ValueError(f"{where}: {error.strerror}") from None
        content = _safetensors(path, where) if head[8:9] == b"{" else _archive(path, where) or _loaded(path, where)
    found, optimizers = _found(content, key, where), _optimizers(content, where)
    for name, tensor in found.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{where}: {name!r} holds NaN or infinity: take an earlier checkpoint")
    return Checkpoint(found, optimizers)


# -- formats -----------------------------------------------------------------------------------------------------------


def _safetensors(path: Path, where: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{where} is a damaged safetensors file: {first_line(error)}") from None
    if not tensors:
        raise ValueError(f"{where} holds no tensors: write a model's state_dict()")
    return tensors


def _loaded(file: Path | IO[bytes], where: str) -> Any:
    """The content of a file of torch; one with anything but tensors and plain values is never loaded."""
    try:
        with zipfile.ZipFile(file) as archive:
            _expand(archive, archive.namelist(), where)
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError):
        pass  # as torch wrote files once; or it is none, and torch says so
    if not isinstance(file, Path):
        file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript archives, which are refused below
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error)) or re.search(r"class (\S+)", str(error))
        if named is None:
            raise ValueError(f"{where} is neither a safetensors file nor a checkpoint of torch") from None
        raise ValueError(
            f"{where} holds a pickled {named[1]}, which loading would run: refused. Write "
            "torch.save(model.state_dict(), path) where it comes from"
        ) from None
    except Exception as error:
        raise ValueError(f"{where} cannot be read by torch: {first_line(error)}") from None


def _expand(archive: zipfile.ZipFile, names: Sequence[str], where: str) -> None:
    """`ValueError` where one of the files in an archive is many times as large as it is packed."""
    for about in map(archive.getinfo, names):
        if about.file_size > max(SMALL, EXPANDS * about.compress_size):
            raise ValueError(f"{where}: {about.filename} expands more than {EXPANDS} times: refused")


def _archive(path: Path, where: str) -> dict[str, Any] | None:
    """What an archive of Stable-Baselines3 holds: the policy and its optimizers, not the pickles beside them."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            if POLICY not in members:
                return None
            names = [POLICY, *sorted(name for name in members if name.endswith("optimizer.pth"))]
            _expand(archive, names, where)
            read = {name: _loaded(io.BytesIO(archive.read(name)), f"{where}: {name}") for name in names}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError):
        return None  # it may be a file of torch
    return {"model": read.pop(POLICY), "optimizer_states": list(read.values())}


def _folder(path: Path, where: str) -> dict[str, Any]:
    """What a folder of Hugging Face holds: a model, in shards or whole, and the Trainer's optimizer if it is there."""
    if (path / SHARDS).is_file():
        try:
            files = sorted(set(json.loads((path / SHARDS).read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError, OSError):
            raise ValueError(f"{where}: {SHARDS} is no index of safetensors files") from None
        if odd := next((f for f in files if not isinstance(f, str) or Path(f).name != f), None):
            raise ValueError(f"{where}: {SHARDS} names {odd!r}, expected files of the folder")
        if lost := next((f for f in files if not (path / f).is_file()), None):
            raise ValueError(f"{where}: {lost} is not there: fetch all shards")
        model = {name: t for file in files for name, t in _safetensors(path / file, f"{where}: {file}").items()}
    elif (whole := path / "model.safetensors").is_file():
        model = _safetensors(whole, f"{where}: {whole.name}")
    elif (pickled := path / "pytorch_model.bin").is_file():
        model = _loaded(pickled, f"{where}: {pickled.name}")
    else:
        raise ValueError(
            f"{where}: expected model.safetensors, {SHARDS} or pytorch_model.bin in the folder, as save_pretrained "
            "writes them"
        )
    state = path / "optimizer.pt"
    return {"model": model, "optimizer": _loaded(state, f"{where}: {state.name}")} if state.is_file() else model


# -- what is in them ---------------------------------------------------------------------------------------------------


def _found(content: Any, key: str | None, where: str) -> dict[str, Tensor]:
    """The network's state dict."""
    if key is not None:
        return _under(content, key, where)
    if _is_state(content):
        return dict(content)
    states = dict(_states(content))
    named = next((states[name] for name in MODEL if name in states), None)
    if named is None and len(states) == 1:
        (named,) = states.values()
    if named is not None:
        return dict(named)
    if states:
        raise ValueError(f"{where} holds state dicts under {', '.join(states)}: write --key {next(iter(states))}")
    if isinstance(content, Mapping):
        content = next((content[name] for name in MODEL if isinstance(content.get(name), Mapping)), content)
    got = type(content).__name__
    if isinstance(content, Mapping):
        odd = next((f"{k!r}: {type(v).__name__}" for k, v in content.items() if not isinstance(v, Tensor)), "nothing")
        got += f" with {odd}"
    raise ValueError(f"{where}: expected a state dict, or a dict with one under {', '.join(MODEL)}, got {got}")


def _under(content: Any, key: str, where: str) -> dict[str, Tensor]:
    """The tensors at a dotted place: in nested dicts, and under what names begin with."""
    node, rest = content, key
    while isinstance(node, Mapping) and not _is_state(node):
        step = next((k for k in node if isinstance(k, str) and f"{rest}.".startswith(f"{k}.")), None)
        if step is not None:
            node, rest = node[step], rest[len(step) + 1 :]
        else:  # what holds one network need not be told where
            node = next((node[k] for k in MODEL if isinstance(node.get(k), Mapping)), None)
    if isinstance(node, Mapping):
        start = f"{rest}." if rest else ""
        if found := {name.removeprefix(start): t for name, t in node.items() if name.startswith(start)}:
            return found
    there = ", ".join(_places(content)) or "nothing of the kind"
    raise ValueError(f"{where}: expected --key to be one of {there}, got {key!r}")


def _places(content: Any) -> list[str]:
    """Where networks may be: paths of state dicts, or what the names of one begin with."""
    if _is_state(content):
        return list(dict.fromkeys(name.split(".")[0] for name in content if "." in name))
    states = dict(_states(content))
    inner = _places(next(iter(states.values()))) if len(states) == 1 else []
    return [*states, *inner]


def _states(content: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """All state dicts in nested dicts, but for what optimizers keep, by dotted path."""
    if not isinstance(content, Mapping):
        return
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Mapping) or value.keys() >= {"state", "param_groups"}:
            continue
        if _is_state(value):
            yield f"{path}{key}", value
        else:
            yield from _states(value, f"{path}{key}.")


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def _optimizers(content: Any, where: str) -> tuple[dict[str, Any], ...]:
    """The state dicts of optimizers in what a file holds."""
    if not isinstance(content, Mapping) or _is_state(content):
        return ()
    found = next((content[key] for key in OPTIMIZER if isinstance(content.get(key), (Mapping, list))), [])
    states = found if isinstance(found, list) else [found]
    for state in states:
        if not isinstance(state, Mapping) or not (state.keys() >= {"state", "param_groups"} and state["param_groups"]):
            got = ", ".join(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
            raise ValueError(f"{where}: expected an optimizer's state_dict(), got {got}")
    return tuple(dict(state) for state in states)
