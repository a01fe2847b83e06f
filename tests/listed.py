"""A list that a new file has to be entered in says which line is missing."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from types import ModuleType


def classes(package: ModuleType) -> list[type]:
    """Every class that is defined in a file of the package."""
    files = [importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)]
    return [
        kind
        for file in files
        for kind in vars(file).values()
        if inspect.isclass(kind) and kind.__module__ == file.__name__
    ]


def assert_public(kinds: Iterable[type]) -> None:
    """Each class can be imported from the package that its file lies in."""
    for kind in kinds:
        package = kind.__module__.rpartition(".")[0]
        line = f"from {kind.__module__} import {kind.__name__}"
        public = getattr(importlib.import_module(package), "__all__", [])
        assert kind.__name__ in public, (
            f'write in src/{package.replace(".", "/")}/__init__.py: {line}, and "{kind.__name__}" in __all__'
        )


def assert_examples(kinds: Iterable[type], examples: Iterable[object], file: str) -> None:
    """Each class has an example in this file, and nothing else has."""
    found = {type(example) for example in examples}
    for kind in kinds:
        assert kind in found, f'write in {file}, in EXAMPLES: "{kind.__name__}": an example of {kind.__name__}(...)'
    left = {kind.__name__ for kind in found} - {kind.__name__ for kind in kinds}
    assert not left, f"in {file} and in no file of the package: {', '.join(sorted(left))}"
