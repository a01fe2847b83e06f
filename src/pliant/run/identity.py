"""The definition of what was trained, as text that no moved line and no new field with a default changes."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from pathlib import Path, PurePath
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from pliant.experiment import Arm
from pliant.own import Named, file_of

ELSEWHERE = {
    "cli",
    "report",
    "plots",
    "papers",
    "integrations",
    "monitor",
    "keeper",
    "cite.py",
    "trackers.py",
}  # trains nothing
PACKAGE = Path(__file__).parents[1]
FORMERLY = {"pliant.probe.RandomLabels(": "pliant.probe.FreshLabels("}  # names in definitions that were stored before

Definition = dict[str, str]
"""The parts of a definition by name, each in canonical form; parts that are as by default are left out."""


def canonical(value: Any) -> str:
    """A value as text, in which two values are alike exactly where they define the same.

    A frozen dataclass is its import path with the fields that differ from their defaults, sorted by name: a new field
    with a default changes no text. (So a default, once results were stored, does not change: that is a new field.)
    Classes, functions and modules are their import paths; within pliant the path ends at the package, and within
    `pliant.papers` at the module. Floats are exact, mappings sorted, arrays their checksum. A text that is an absolute
    path is its last part: folders of one machine define nothing.

    Raises:
        ValueError: for what has no import path (lambdas, local functions and classes: what they enclose cannot be
            seen), and for objects of any other kind.

    >>> from pliant.interventions import L2
    >>> canonical((L2(1e-4), L2(0.5, normalisers=True), 0.1))
    '(pliant.interventions.L2(strength=0.0001), pliant.interventions.L2(normalisers=True, strength=0.5), 0.1)'
    >>> canonical(lambda x: x)
    Traceback (most recent call last):
    ValueError: ... has no import path: write a function of a module, or functools.partial of one
    """
    return _text(value, set())


def parts(value: Any) -> Definition:
    """The definition that a frozen dataclass is: its kind, and its fields that differ from their defaults.

    >>> from pliant.optim import Adam
    >>> parts(Adam(lr=0.1))
    {'kind': 'pliant.optim.Adam', 'lr': '0.1'}
    """
    return {"kind": _path(type(value), set()), **_fields(value, set())}


def definition(arm: Arm) -> Definition:
    """What is trained as an arm."""
    return parts(arm.trial)


def differences(stored: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """The parts in which two definitions differ, each with what it was and what it is.

    >>> differences({"optimizer": "SGD(lr=0.1)", "net": "MLP"}, {"optimizer": "SGD(lr=0.2)", "net": "MLP"})
    ['optimizer SGD(lr=0.1), here SGD(lr=0.2)']
    """
    stored = renamed(stored)
    names = sorted({*stored, *here})
    told = [(name, stored.get(name, "the default"), here.get(name, "the default")) for name in names]
    return [f"{name} {was}, here {now}" for name, was, now in told if was != now]


def renamed(stored: Mapping[str, str]) -> Definition:
    """A stored definition with what was renamed since under its name of now.

    >>> renamed({"probe": "pliant.probe.RandomLabels(classes=10)"})
    {'probe': 'pliant.probe.FreshLabels(classes=10)'}
    """
    told = dict(stored)
    for was, now in FORMERLY.items():
        told = {name: text.replace(was, now) for name, text in told.items()}
    return told


def code(value: Any) -> str:
    """A checksum of the source that trains: pliant's, and the modules that a canonical form names.

    What only shows or sends results is not in it.
    """
    named: set[str] = set()
    _text(value, named)
    ours = [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] not in ELSEWHERE]
    theirs = {_source(name) for name in named} - {None, *ours}
    found = hashlib.sha256()
    for path in [*ours, *sorted(path for path in theirs if path is not None)]:
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def files(value: Any) -> dict[str, str]:
    """Checksums of the user's own files that a canonical form names, by that name: arrays, and modules' sources.

    A network given by name is called as it is given, `my_module:build`. Neither pliant nor installed packages are in
    it, nor what a module imports.

    >>> from pliant.own import Built
    >>> files(("digits", Built("pliant.nets:MLP")))
    {}
    """
    named: set[str] = set()
    _text(value, named)
    paths = {name: path for name in sorted(named) if (path := _source(name)) is not None and not _installed(path)}
    return {_short(name): hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()}


def edited(stored: Any, here: Mapping[str, str]) -> list[str]:
    """The names of files that are not what they were, of those that both times were known.

    >>> edited({"mine.npz": "1f", "study": "2e"}, {"mine.npz": "1f", "study": "3d", "net:build": "4c"})
    ['study']
    """
    return [name for name, was in stored.items() if here.get(name, was) != was] if isinstance(stored, dict) else []


def defines(name: str) -> bool:
    """Whether all that a file holds is trained: arrays and networks given by name, but not a study with its claims."""
    return ":" in name or name.endswith(".npz")


def _text(value: Any, named: set[str]) -> str:
    match value:
        case None | bool() | int() | float() | complex() | bytes() if not isinstance(value, (Enum, np.generic)):
            return repr(value)
        case Enum() | type() | FunctionType() | BuiltinFunctionType():
            return _path(type(value), named) + f".{value.name}" if isinstance(value, Enum) else _path(value, named)
        case str():
            named.update({value} if value.endswith(".npz") else ())
            return repr(PurePath(value).name if PurePath(value).is_absolute() else str(value))
        case PurePath():
            return repr(value.name if value.is_absolute() else value.as_posix())
        case np.generic():
            return _text(value.item(), named)
        case torch.dtype() | torch.device():
            return str(value)
        case ModuleType():
            named.add(value.__name__)
            return value.__name__
        case MethodType():
            return f"{_text(value.__self__, named)}.{value.__name__}"
        case functools.partial():
            given = [*(_text(v, named) for v in value.args), *_items(value.keywords, named)]
            return f"{_text(value.func, named)}[{', '.join(given)}]"
        case np.ndarray() | torch.Tensor():
            array = np.ascontiguousarray(value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value)
            return f"array({array.dtype}, {array.shape}, {hashlib.sha256(array.tobytes()).hexdigest()})"
        case tuple():
            inside = [_text(v, named) for v in value]
            return f"({', '.join(inside)}{',' * (len(inside) == 1)})"
        case list():
            return f"[{', '.join(_text(v, named) for v in value)}]"
        case set() | frozenset():
            return f"{{{', '.join(sorted(_text(v, named) for v in value))}}}"
        case Mapping():
            pairs = sorted((_text(k, named), _text(v, named)) for k, v in value.items())
            return f"{{{', '.join(f'{k}: {v}' for k, v in pairs)}}}"
    if isinstance(value, Named):
        named.add(value.path)
    if is_dataclass(value) and type(value).__dataclass_params__.frozen:  # type: ignore[attr-defined]
        told = (f"{name}={text}" for name, text in _fields(value, named).items())
        return f"{_path(type(value), named)}({', '.join(told)})"
    raise ValueError(
        f"{value!r} is no definition: expected frozen dataclasses, functions of modules, numbers, texts, tuples and "
        f"mappings, got {type(value).__name__}"
    )


def _fields(value: Any, named: set[str]) -> Definition:
    """The fields of a dataclass that differ from their defaults, sorted."""
    found = {}
    for field in sorted(fields(value), key=lambda field: field.name):
        if not field.init:
            continue
        text = _text(getattr(value, field.name), named)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if default is MISSING or text != _text(default, set()):
            found[field.name] = text
    return found


def _items(value: Mapping[str, Any], named: set[str]) -> list[str]:
    return [f"{name}={_text(value[name], named)}" for name in sorted(value)]


def _path(value: Any, named: set[str]) -> str:
    """Where a class or function is imported from."""
    module, name = getattr(value, "__module__", None), value.__qualname__
    found: Any = sys.modules.get(module or "")
    for step in name.split("."):
        found = getattr(found, step, None)
    if found is not value or module is None:
        raise ValueError(f"{value!r} has no import path: write a function of a module, or functools.partial of one")
    named.add(module)
    return f"{_place(module)}.{name}"


def _place(module: str) -> str:
    """A module's path; in pliant its package's, as files within a package move."""
    steps = module.replace("__mp_main__", "__main__").split(".")
    return ".".join(steps[:2] if steps[0] == "pliant" and steps[1:2] != ["papers"] else steps)


def _source(name: str) -> Path | None:
    """The file of arrays, or of a module, imported or given with a function (`module:name`), where there is one."""
    if name.endswith(".npz"):
        path = Path(name).expanduser()
        return path if path.is_file() else None
    module, colon, _ = name.partition(":")
    try:
        path = file_of(module) if colon else inspect.getsourcefile(sys.modules[module])
    except (KeyError, TypeError):
        return None
    return Path(path) if path is not None and Path(path).is_file() else None


def _installed(path: Path) -> bool:
    """Whether a file is pliant's, Python's or an installed package's."""
    theirs = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    places = [PACKAGE, *map(Path, theirs)]
    return any(path.resolve().is_relative_to(place.resolve()) for place in places)


def _short(name: str) -> str:
    return PurePath(name).name if PurePath(name).is_absolute() else name
