"""Code of somebody's own, imported because it was asked for: files and functions whose mistakes are one line."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


class Named:
    """A dataclass whose `path`, `package.module:name`, is code of somebody's own: that is part of what it defines."""

    path: str


@dataclass(frozen=True)
class Built(Named):
    """A network as the function at `package.module:name` builds it: of (input shape, number of outputs), or of nothing.

    It is imported when it is first wanted, so that reading settings runs nothing. Raises `ValueError`, naming the
    `option`, where it cannot be, and for a function that fails or returns anything but a module.

    >>> Built("pliant.nets:MLP")((3,), 2).output
    Linear(in_features=512, out_features=2, bias=True)
    """

    path: str
    option: str = "--set net="

    @property
    def function(self) -> Callable[..., nn.Module]:
        """The function."""
        return function(self.path, self.option)

    @property
    def sized(self) -> bool:
        """Whether the function wants to know the input shape and the number of outputs."""
        needed = [p for p in inspect.signature(self.function).parameters.values() if p.default is p.empty]
        needed = [p for p in needed if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if len(needed) not in (0, 2):
            raise ValueError(
                f"{self.option}{self.path}: expected a function of (input shape, number of outputs), or of nothing, "
                f"got one of {len(needed)} argument{'s' if len(needed) != 1 else ''}"
            )
        return bool(needed)

    def __call__(self, shape: tuple[int, ...], outputs: int) -> nn.Module:
        from torch import nn

        given = (shape, outputs) if self.sized else ()
        with one_line(f"{self.option}{self.path} fails when called"):
            made = self.function(*given)
        if not isinstance(made, nn.Module):
            raise ValueError(
                f"{self.option}{self.path}: expected a function that returns a module, got {type(made).__name__}"
            )
        return made


def function(path: str, option: str) -> Callable[..., Any]:
    """The function at `module:name`, of the working directory, too; `ValueError` naming the option where there is none.

    >>> function("pliant.nets:MLP", "--set net=").__name__
    'MLP'
    """
    module, colon, name = path.partition(":")
    if not colon:
        raise ValueError(f"expected {option}package.module:function, got {path!r}")
    _on_path(Path.cwd())
    with one_line(f"{option}{path} cannot be imported"):
        found = getattr(importlib.import_module(module), name)
    if not callable(found):
        raise ValueError(f"{option}{path}: expected a function, got {type(found).__name__}")
    return found


def file_of(module: str) -> str | None:
    """The file of a module, of the working directory, too; None where there is none. It is not run.

    >>> file_of("pliant.own").rpartition("/")[2]
    'own.py'
    """
    _on_path(Path.cwd())
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return None if spec is None else spec.origin


def module(path: Path) -> ModuleType:
    """The module in a file, importable under its name by workers, too; `ValueError` where that cannot be."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    name = path.stem
    if not name.isidentifier():
        raise ValueError(f"expected a file whose name is one of Python's, such as my_study.py, got {path.name}")
    _on_path(path.resolve().parent)
    with one_line(f"{path} cannot be imported"):
        found = importlib.import_module(name)
    there = Path(getattr(found, "__file__", None) or "?")
    if there.resolve() != path.resolve():
        raise ValueError(f"{path} has the name of another module ({there}): call it otherwise")
    return found


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """Errors of somebody's code as a `ValueError` of one line: what happened, where.

    >>> with one_line("half of it"): 1 / 0
    Traceback (most recent call last):
    ValueError: half of it: ZeroDivisionError: division by zero (...)
    """
    try:
        yield
    except ValueError as error:
        if "\n" in str(error).strip() or not str(error).strip():
            raise ValueError(_told(what, error)) from error
        raise ValueError(f"{what}: {error}") from error
    except Exception as error:
        raise ValueError(_told(what, error)) from error


def _told(what: str, error: Exception) -> str:
    said = next(iter(str(error).strip().splitlines()), "").strip()
    if isinstance(error, SyntaxError):
        return f"{what}: {type(error).__name__}: {error.msg} ({Path(error.filename or '?').name}, line {error.lineno})"
    last = traceback.extract_tb(error.__traceback__)[-1]
    name = type(error).__name__
    return f"{what}: {name}{': ' * bool(said)}{said} ({Path(last.filename).name}, line {last.lineno})"


def _on_path(folder: Path) -> None:
    """Modules of the folder can be imported, here and in processes that are started from here."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
