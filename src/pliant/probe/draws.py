"""Fresh networks and the numbers that seed them, one for each purpose of each target."""

from __future__ import annotations

import numpy as np

from pliant.network import Network, Params


def number(seed: int, target: int, purpose: int) -> int:
    """A seed for one purpose of one target, which share no numbers.

    Purposes are targets (0), fresh networks (1), repairs (2), targets (3) and networks (4) that choose the budget, and
    orders of repairs (5).
    """
    words = [seed, target, purpose, *b"probe"]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


def draw(network: Network, like: Params, seed: int, target: int, purpose: int = 1) -> Params:
    """The fresh network that is the control of a target; what is never trained is as in `like`."""
    fresh = network.fresh(number(seed, target, purpose))
    return {name: fresh[name].to(p) if name in network.names else p.clone() for name, p in like.items()}
