"""Builds the wheel and the sdist, and tries them in empty environments, one for each Python and torch: `make release`.

    python .ci/release.py python3.11:2.13.0 python3.12:2.11.0 python3.13:2.14.1

In each environment, which has nothing but that torch and numpy: the monitor and a recipe with pliant and none of its
dependencies, then, with them, `pliant diagnose`, the demo and all that README.md shows. The first environment installs
the sdist, the others the wheel. Nothing is published.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Sequence
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LARGEST = 2_000_000  # bytes of either file: results, pictures and tests stay out

LEAN = """
import sys
import torch, numpy, torch._dynamo
from torch import nn
before = set(sys.modules)
import pliant
model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(64, 4)
recipe = pliant.Chain(pliant.LayerNorm(), pliant.L2(1e-4), pliant.ReDo(tau=0.1, every=1))
model = recipe.build(model, example=x)
optimizer = torch.optim.Adam(model.parameters())
keeper = recipe.attach(model, optimizer)
monitor = pliant.Monitor(model, probe=x, optimizer=optimizer, every=1)
(model(x).square().mean() + keeper.penalty()).backward()
optimizer.step()
keeper.step()
monitor(1)
assert monitor.latest["dead"] >= 0
more = {name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names - {"pliant"}
installed = {name for name in more if "site-packages" in (getattr(sys.modules.get(name), "__file__", "") or "")}
print("imported beside torch and numpy:", ", ".join(sorted(installed - {"torch", "numpy"})) or "nothing")
"""
SAVED = """
import numpy, torch, own
torch.manual_seed(1)
torch.save(own.build().state_dict(), "own.pt")
numpy.savez("own.npz", x=torch.randn(256, 16).numpy(), y=torch.randint(10, (256,)).numpy())
"""
OWN = """
from torch import nn
def build():
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
"""
DIAGNOSE = (  # of a network that was never trained, which is healthy: exit code 0
    "diagnose --model own:build --checkpoint own.pt --data own.npz --loss cross_entropy --fresh --lr 0.01 --steps 300"
)


def main(pairs: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        wheel, sdist = build(ROOT / "dist")
        say(f"{wheel.name} {wheel.stat().st_size:,} bytes; {sdist.name} {sdist.stat().st_size:,} bytes")
        inspect(wheel, sdist)
        told = [tried(Path(folder), pair, wheel if at else sdist) for at, pair in enumerate(pairs)]
    for line in told:
        say(line)
    return 0


def build(to: Path) -> tuple[Path, Path]:
    """The wheel, built from the sdist, and the sdist."""
    for old in to.glob("pliant-*"):
        old.unlink()
    run([sys.executable, "-m", "build", "--outdir", str(to), str(ROOT)])
    (wheel,), (sdist,) = to.glob("pliant-*.whl"), to.glob("pliant-*.tar.gz")
    return wheel, sdist


def inspect(wheel: Path, sdist: Path) -> None:
    """What has to be in both files, and what must not."""
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        (described,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = message_from_bytes(file.read(described))
    with tarfile.open(sdist) as file:
        packed = {name.partition("/")[2] for name in file.getnames()}
    ours = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/pliant").rglob("*") if path.is_file()}
    ours = {name for name in ours if "__pycache__" not in name}
    installed = {name for name in names if name.startswith("pliant/")}
    assert installed == ours, f"the wheel and src differ in {sorted(installed ^ ours)}"
    assert {f"src/{name}" for name in ours} < packed, "the sdist lacks sources"
    assert {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "pyproject.toml"} < packed
    assert any(name.endswith("/licenses/LICENSE") for name in names), "the wheel lacks the licence"
    assert not [name for name in packed if name.startswith(("results", "docs", "tests"))]
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    for path in (wheel, sdist):
        assert path.stat().st_size < LARGEST, f"{path.name} has {path.stat().st_size:,} bytes"


def tried(folder: Path, pair: str, package: Path) -> str:
    """All that is tried with one Python and one torch, written python3.11:2.13.0; a line that says what there was."""
    python, _, torch = pair.partition(":")
    home = folder / pair.replace("/", "_").replace(":", "-")
    (home / "work").mkdir(parents=True)
    (home / "constraints.txt").write_text(f"torch=={torch}\n")
    (home / "work" / "own.py").write_text(OWN)
    run([python, "-m", "venv", str(home / "env")])
    binaries = home / "env" / "bin"
    own, pip = str(binaries / "python"), [str(binaries / "python"), "-m", "pip", "install", "--quiet"]
    run([*pip, "--constraint", str(home / "constraints.txt"), "torch", "numpy"])
    least = size(binaries)
    run([*pip, "--no-deps", str(package)])
    run([own, "-c", LEAN], home / "work")
    run([*pip, "--constraint", str(home / "constraints.txt"), str(package)])
    most = size(binaries)
    run([own, "-c", SAVED], home / "work")
    run([str(binaries / "pliant"), *DIAGNOSE.split()], home / "work")
    run([str(binaries / "pliant"), "demo", "--seeds", "1"], home / "work")
    run([own, str(ROOT / ".ci/readme.py"), str(ROOT / "README.md")], home / "work")
    said = subprocess.check_output([own, "-c", "import sys, torch; print(sys.version.split()[0], torch.__version__)"])
    python, torch = said.decode().split()
    return (
        f"Python {python}, torch {torch}, from {package.name}: all works; torch and numpy {least:,} MB, "
        f"pliant with its dependencies {most - least:,} MB"
    )


def size(binaries: Path) -> int:
    """Megabytes of what is installed, without bytecode."""
    files = [path for path in (binaries.parent / "lib").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return round(sum(path.stat().st_size for path in files) / 1e6)


def run(command: Sequence[str], folder: Path | None = None) -> None:
    """Runs a command that has to succeed, without this checkout's package in sight."""
    say("$ " + " ".join(command[:1] + [word if "\n" not in word else "'...'" for word in command[1:]]))
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    code = subprocess.run(command, cwd=folder, env=environment).returncode
    if code:
        raise SystemExit(f"{command[0]}: exit code {code}")


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
