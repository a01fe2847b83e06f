"""`python -m tests.extras.zoo` runs the zoo and writes docs/zoo.md: what was found, by network and check."""

from __future__ import annotations

import logging
import time
import warnings
from pathlib import Path

from tests.extras.zoo.checks import CHECKS
from tests.extras.zoo.networks import FAMILIES, NETWORKS, REFUSED

PAGE = Path(__file__).parents[3] / "docs" / "zoo.md"
HEAD = """# The zoo

{count} networks of public packages, narrow and shallow, with random weights, each through {checks} checks. A check asks
for what can be found out without pliant: the kernels that torch ran, what changes where half of the units are silenced
by hand, training without the monitor. `make test-extras` runs them all; `python -m tests.extras.zoo` wrote this page.

"""


def cell(name: str, check: str) -> str:
    """What a check found, or the reference of its refusal."""
    try:
        return CHECKS[check](NETWORKS[name])
    except ValueError as error:
        if (name, check) not in REFUSED:
            raise
        return f"refused: {error}"


def main() -> None:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    page = HEAD.format(count=len(NETWORKS), checks=len(CHECKS))
    page += "".join(f"- **{name}**: {(check.__doc__ or '').splitlines()[0]}\n" for name, check in CHECKS.items())
    refusals = []
    for family, names in FAMILIES.items():
        page += f"\n## {family}\n\n| network | {' | '.join(CHECKS)} |\n|{':--|' * (1 + len(CHECKS))}\n"
        for name in names:
            began, cells = time.perf_counter(), []
            for check in CHECKS:
                found = cell(name, check)
                if found.startswith("refused: "):
                    refusals.append(f"- {name}, {check}: {found.removeprefix('refused: ')}\n")
                    found = "refused"
                cells.append(found)
            print(f"{name}: {time.perf_counter() - began:.1f} s", flush=True)
            page += f"| {name} | {' | '.join(cells)} |\n"
    page += "\n## Refused\n\n" + "".join(refusals)
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
