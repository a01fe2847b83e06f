"""Writes what the site makes itself: API, commands, references, gallery, versions, one picture. `make docs`."""

from __future__ import annotations

import ast
import inspect
import io
import os
import re
import shutil
from argparse import _SubParsersAction
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import versions
import when
from gallery import gallery

FOLDER = Path(__file__).parent / "generated"
PACKAGES = (
    "pliant", "pliant.study", "pliant.interventions", "pliant.interventions.contrib", "pliant.diagnostics",
    "pliant.monitor", "pliant.probe", "pliant.causes", "pliant.testing", "pliant.optim", "pliant.heads", "pliant.nets",
    "pliant.tasks", "pliant.trials", "pliant.data", "pliant.rl", "pliant.plots", "pliant.experiment", "pliant.claims",
)  # fmt: skip


def generate() -> None:
    """All pages, below `generated/`."""
    FOLDER.mkdir(exist_ok=True)
    names = [_package(name) for name in PACKAGES]
    _write("pliant.integrations", integrations())
    names.append("pliant.integrations")
    toc = "\n".join(names)
    _write("api", f"# API\n\nPublic names, by package.\n\n```{{toctree}}\n:maxdepth: 1\n\n{toc}\n```\n")
    _write("commands", _commands())
    _write("references", _references())
    _write("gallery", gallery(FOLDER))
    _write("versions", versions.table(versions.read() | {"this site": versions.here()}) + "\n")
    for name, width in (("wide", 740), ("narrow", 350)):
        (FOLDER / f"cures_when_{name}.svg").write_text(when.picture(width))
    for id in ("lyle2024/swiss_cheese", "toolbox/cures", "toolbox/causes"):  # beside those in docs/, which are wide
        drawn = FOLDER / "gallery" / f"{id.replace('/', '-')}-{when.kept(id).folder.name}-1-narrow.svg"
        shutil.copy(drawn, FOLDER / f"{id.partition('/')[2]}_narrow.svg")


def documented(docstring: str) -> str:
    r"""A docstring as Markdown: sections become headings in bold, their entries a list, examples code.

    >>> print(documented("Sum.\n\nArgs:\n    x: one\n        number.\n\n>>> 1 + 1\n2"))
    Sum.
    <BLANKLINE>
    **Args**
    <BLANKLINE>
    - `x`: one number.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    """
    parts = [_block(part) for part in re.split(r"\n\s*\n", inspect.cleandoc(docstring))]
    return "\n\n".join(parts)


def _block(part: str) -> str:
    heading, _, rest = part.partition("\n")
    if part.lstrip().startswith(">>>"):
        return f"```pycon\n{inspect.cleandoc(part)}\n```"
    if re.fullmatch(r"(Args|Attributes|Raises|Returns):", heading):
        entries = re.split(r"\n(?=\S)", inspect.cleandoc(rest))
        lines = [re.sub(r"^([*\w]+):", r"`\1`:", " ".join(line.split())) for line in entries if line]
        return f"**{heading[:-1]}**\n\n" + "\n".join(f"- {line}" for line in lines)
    return part


def _package(name: str) -> str:
    module = import_module(name)
    public = getattr(module, "__all__", None) or [n for n, v in vars(module).items() if _of(module, n, v)]
    told = [f"# {name}", documented(inspect.getdoc(module) or "")]
    for each in public:
        value = getattr(module, each)
        if inspect.isclass(value) or inspect.isfunction(value):
            told += [
                f"## {each}",
                f"```python\n{each}{_signature(value)}\n```",
                documented(inspect.getdoc(value) or ""),
            ]
            told += [_methods(value)] if inspect.isclass(value) else []
    _write(name, "\n\n".join(part for part in told if part) + "\n")
    return name


def integrations() -> str:
    """The page of callbacks, read and not imported: Stable-Baselines3, Lightning and others need not be there."""
    folder = Path(import_module("pliant.integrations").__file__ or "").parent
    told = ["# pliant.integrations", documented(inspect.getdoc(import_module("pliant.integrations")) or "")]
    for path in sorted(folder.rglob("[!_]*.py")):
        library = path.relative_to(folder).parts[0].removesuffix(".py")
        for kind in ast.parse(path.read_text()).body:
            if isinstance(kind, ast.ClassDef) and not kind.name.startswith("_"):
                parts = {part.name: part for part in kind.body if isinstance(part, ast.FunctionDef)}
                told += [
                    f"## {library}.{kind.name}",
                    f"```python\n{kind.name}{_arguments(parts['__init__'])}\n```",
                    documented(ast.get_docstring(kind) or ""),
                ]
                told += [
                    f"**`{name}{_arguments(part)}`**\n\n{documented(said)}"
                    for name, part in parts.items()
                    if not name.startswith("_") and (said := ast.get_docstring(part))
                ]
    return "\n\n".join(told) + "\n"


def _arguments(function: ast.FunctionDef) -> str:
    """Of a method, as one would write them."""
    del function.args.args[0]
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    return f"({ast.unparse(function.args)}){returns}"


def _methods(kind: type) -> str:
    own = [(n, v) for n, v in vars(kind).items() if not n.startswith("_") and inspect.isfunction(v) and v.__doc__]
    return "\n\n".join(
        f"**`{name}{_signature(value)}`**\n\n{documented(inspect.getdoc(value) or '')}" for name, value in own
    )


def _of(module: Any, name: str, value: Any) -> bool:
    return not name.startswith("_") and getattr(value, "__module__", None) == module.__name__ and callable(value)


def _signature(value: Any) -> str:
    """How it is called, as one would write it."""
    try:
        told = re.sub(r" at 0x[0-9a-f]+", "", str(inspect.signature(value)))
    except ValueError:
        return "(...)"
    told = re.sub(r"<(?:class '(?:[\w.]+\.)?|function )(\w+)'?>", r"\1", told.replace("<factory>", "..."))
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", told)


def _commands() -> str:
    from pliant.cli import _parser

    os.environ["COLUMNS"] = "100"
    parser = _parser()
    told = ["# Commands", "Exit codes: 0 done, 1 failed, 2 a bad call, 3 cannot tell, 130 after Ctrl-C."]
    told += [f"```text\n{parser.format_help()}```"]

    def all_of(above: Any) -> None:
        for action in above._actions:
            if isinstance(action, _SubParsersAction):
                for made in action.choices.values():
                    told.append(f"## {made.prog}\n\n```text\n{made.format_help()}```")
                    all_of(made)

    all_of(parser)
    return "\n\n".join(told) + "\n"


def _references() -> str:
    from pliant.cite import _entries, entry

    told = [
        "# References",
        "The papers that pliant's methods and numbers come from; `pliant cite` prints their BibTeX.",
    ]
    for key in sorted(_entries()):
        found = entry(key)
        link = f" <{found.link}>" if found.link else ""
        told.append(f"- `{key}`: {', '.join(found.authors)}. *{found.title}*. {found.venue}.{link}")
    return told[0] + "\n\n" + told[1] + "\n\n" + "\n".join(told[2:]) + "\n"


def _write(name: str, text: str) -> None:
    (FOLDER / f"{name}.md").write_text(text)


if __name__ == "__main__":
    with redirect_stdout(io.StringIO()):
        generate()
