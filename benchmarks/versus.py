"""Is this tree slower than another? Processor time of the same work in both, taking turns; ratios, medians of rounds.

Each tree runs in a process of its own with its own copy of the benchmarks: populations, the monitor's loop, and every
intervention of toolbox/cures. Above 1: this tree takes longer.

    git worktree add ../before COMMIT
    python benchmarks/versus.py ../before
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def work() -> dict[str, Callable[[], Callable[[], object]]]:
    """What is timed, by name: a function that prepares it and returns the function to time."""
    import interventions
    import monitor
    import population
    import torch

    from pliant.interventions import Chain
    from pliant.papers.toolbox.cures import cures

    torch.set_num_threads(1)
    found: dict[str, Callable[[], Callable[[], object]]] = {}
    for case in population.CASES:
        found[f"population, {case.name}"] = lambda case=case: population.population_rate(case, case.members > 1)
    for name in monitor.NETS:

        def watched(name: str = name) -> Callable[[], object]:
            loop = monitor.Loop(name, None, tier="economy", every=10)
            return lambda: loop.seconds(20)

        found[f"monitor, {name}"] = watched
    for name, (make, shape, batch, members, steps) in interventions.NETS.items():
        for cure in cures():

            def trained(cure=cure, make=make, shape=shape, batch=batch, members=members, steps=steps):
                arm = interventions.Recipe(cure.optimizer, Chain(*cure.interventions))
                running = interventions.Running(arm, make, shape, batch, members)
                return lambda: running.seconds(steps)

            found[f"{name}, {cure.name}"] = trained
    return found


def answer() -> None:
    """A side: reads names, one a line; the first time prepares the work, then prints the processor time it takes."""
    warnings.filterwarnings("ignore")
    all_work, ready = work(), {}
    print("\n".join(all_work), "", sep="\n", flush=True)
    for line in map(str.strip, sys.stdin):
        if line not in ready:
            ready.clear()  # one at a time in memory
            ready[line] = all_work[line]()
            ready[line]()
        start = time.process_time()
        ready[line]()
        print(time.process_time() - start, flush=True)


class Side:
    """A process that works in one tree."""

    def __init__(self, tree: Path):
        path = os.pathsep.join([str(tree / "src"), str(tree / "benchmarks")])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(HERE / "benchmarks" / "versus.py"), "--answer"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
        assert self.process.stdout is not None
        self.names = list(iter(lambda: self.process.stdout.readline().strip(), ""))

    def seconds(self, name: str) -> float:
        """The processor time of the work once."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, nargs="?", help="the tree to compare with")
    parser.add_argument("--only", default="", help="work whose name contains this")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.answer:
        return answer()
    here, other = Side(HERE), Side(given.other.resolve())
    for name in (n for n in here.names if n in other.names and given.only in n):
        times = [(here.seconds(name), other.seconds(name)) for _ in range(given.rounds)]
        ratios = sorted(a / b for a, b in times)
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        print(f"{name:48}{statistics.median(ratios):6.3f}  [{low:.3f}, {high:.3f}]", flush=True)


if __name__ == "__main__":
    main()
