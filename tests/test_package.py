"""The package as a whole: imports go one way and change nothing; every public name explains itself."""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import pliant

ROOT = Path(pliant.__file__).parent
LAYERS = [  # each imports from those above it, and from itself; nets and data know nothing of pliant
    {"levels"},
    {"maps"},
    {"functional", "nets", "data", "refs", "adapter", "trackers", "words", "written", "formats", "outline"},
    {"inplace", "nonlinear"},
    {"sites", "terminal"},
    {"units", "modules", "results", "cutting", "own", "waterfall"},
    {"codes"},
    {"generic"},
    {"numbers"},
    {"claims", "feeding"},
    {"plots", "reading"},
    {"poking", "unread"},
    {"tracing"},
    {"network"},
    {"optim", "heads", "testing"},
    {"interventions", "diagnostics"},
    {"stacking"},
    {"members", "updates"},
    {"gradients"},
    {"population", "monitor", "keeper"},
    {"probe"},
    {"rl"},
    {"causes", "integrations", "tasks"},
    {"trials"},
    {"experiment"},
    {"papers"},
    {"run", "cite"},
    {"report"},
    {"study"},
    {"cli"},
    {"__main__"},
]
UPWARDS = {  # inside a function, when it is called
    ("pliant.experiment", "pliant.papers"),  # finds its entries by scanning a package further down
    ("pliant.interventions.chain", "pliant.keeper"),  # Chain.attach
    ("pliant.interventions.chain", "pliant.keeper.Keeper"),
}
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
)


def nodes(module: str) -> Iterator[ast.AST]:
    """The syntax of a module's file; that of a package is its __init__."""
    path = ROOT.parent / Path(*module.split("."))
    return ast.walk(ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()))


def imports(module: str) -> set[str]:
    """The modules of pliant that a module imports, at its top, inside a function or for the type checker."""
    found = set()
    for node in nodes(module):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: write absolute imports"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("pliant.")}


def part(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("module", [name for name in MODULES if name != "pliant"])
def test_imports_go_one_way(module):
    assert part(module) in LEVEL, f"say in LAYERS where {part(module)} belongs"
    for other in imports(module):
        if part(other) in LEVEL and part(other) != part(module) and (module, other) not in UPWARDS:
            assert LEVEL[part(other)] < LEVEL[part(module)], f"{module} imports {other}"


def test_no_import_circle():
    """Modules, also by imports inside functions; a package counts as its __init__."""
    known = set(MODULES)

    def edges(module: str) -> set[str]:
        found = set()
        for node in nodes(module):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                found |= {name if name in known else str(node.module) for name in names}
        return found & known - {module}

    graph = {module: edges(module) for module in MODULES}
    while free := [module for module, others in graph.items() if not others & graph.keys()]:
        for module in free:
            del graph[module]
    assert not graph, f"these import each other: {', '.join(sorted(graph))}"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


HEAVY = [
    "matplotlib",
    "scipy",
    "sklearn",
    "pandas",
    "gymnasium",
    "stable_baselines3",
    "lightning",
    "transformers",
    "ray",
    "tensorboard",
    "wandb",
    "mlflow",
    "pyarrow",
    "torch._dynamo",
]


def test_importing_is_light():
    """`import pliant`, and the core that a training loop imports."""
    code = f"""
import sys
import pliant, pliant.interventions, pliant.diagnostics, pliant.population, pliant.monitor, pliant.nets, pliant.tasks
print(*(name for name in {HEAVY} if name in sys.modules))
"""
    assert run(code).split() == []


def test_listing_experiments_needs_no_torch():
    assert run("import sys, pliant, pliant.experiment; print('torch' in sys.modules)").strip() == "False"


def test_importing_everything_changes_no_setting():
    code = f"""
import warnings
import numpy, torch
warnings.simplefilter("ignore")
def settings():
    return (
        torch.get_num_threads(), torch.get_num_interop_threads(), torch.get_default_dtype(),
        torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(), torch.initial_seed(),
        torch.get_rng_state().tolist(), numpy.random.get_state()[1].tolist(),
        torch.backends.mkldnn.enabled, torch.get_float32_matmul_precision(), warnings.filters[:],
    )
before = settings()
import importlib
for name in {[name for name in MODULES if not name.startswith("pliant.integrations.")]}:
    importlib.import_module(name)
after = settings()
print(*(i for i, (a, b) in enumerate(zip(before, after)) if a != b))
"""
    assert run(code).split() == []


def public() -> list[tuple[str, str]]:
    packages = [name for _, name, is_package in pkgutil.iter_modules([str(ROOT)]) if is_package]
    return [
        (package, name)
        for package in packages
        for name in getattr(importlib.import_module(f"pliant.{package}"), "__all__", [])
    ]


def test_a_public_name_is_one_thing():
    """Of packages, and the classes of modules that lie beside them (`pliant.units`, `pliant.testing`)."""
    modules = {
        name: importlib.import_module(f"pliant.{name}") for name in (path.stem for path in ROOT.glob("[a-z]*.py"))
    }
    classes = [
        (module, name)
        for module, of in modules.items()
        for name, thing in vars(of).items()
        if inspect.isclass(thing) and thing.__module__ == of.__name__ and not name.startswith("_")
    ]
    found: dict[str, set[int]] = {}
    for part, name in [*public(), *classes]:
        found.setdefault(name, set()).add(id(getattr(importlib.import_module(f"pliant.{part}"), name)))
    assert [name for name, things in found.items() if len(things) > 1] == []


def test_a_setup_has_five_fields():
    from pliant.experiment import Setup

    assert [field.name for field in dataclasses.fields(Setup)] == ["arms", "plots", "table", "claims", "deviations"]


@pytest.mark.parametrize(("package", "name"), public(), ids=lambda part: part)
def test_every_public_name_explains_itself_with_an_example(package, name):
    thing = getattr(importlib.import_module(f"pliant.{package}"), name)
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return
    doc = thing.__doc__ or ""
    assert not re.match(rf"{name}\(.*\)$", doc), "a docstring of its own, not the one a dataclass writes"
    assert ">>> " in doc


MODULE_OF = {  # where a distribution is imported under another name
    "ale-py": "ale_py",
    "pillow": "PIL",
    "pytest-xdist": "xdist",
    "scikit-learn": "sklearn",
    "sb3-contrib": "sb3_contrib",
    "stable-baselines3": "stable_baselines3",
}
BY_MAKE = {"timm"}  # without the torchvision that it declares
REPOSITORY = ROOT.parents[1]


def test_whatever_is_imported_is_declared():
    """Nothing is there only because another package happens to need it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    names = [re.split(r"[<>=!~\[ ]", line)[0] for line in listed]
    known = (
        {MODULE_OF.get(name, name) for name in names}
        | {"pliant", "tests", "benchmarks"}
        | {path.stem for path in (REPOSITORY / "docs").glob("*.py")}
        | BY_MAKE
        | sys.stdlib_module_names
    )
    unknown = {
        f"{path.relative_to(REPOSITORY)}: {top}"
        for folder in ("src", "tests", "examples")
        for path in (REPOSITORY / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in _imported(node)
        if (top := name.split(".")[0]) not in known
    }
    assert sorted(unknown) == []


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module and node.level == 0 else []


def test_ships_types():
    assert (ROOT / "py.typed").exists()
