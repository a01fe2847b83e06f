"""Populations as trials build them: a function that makes networks, interventions built in, a member a seed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pliant.gradients import Loss
from pliant.interventions import Chain
from pliant.modules import drawn_by_layers, seeded
from pliant.network import Network
from pliant.optim import Optimizer
from pliant.population import Member, Population

BLOCK = 50  # steps whose random numbers are drawn together
LONG = 10_000  # steps from which compiling the gradient (5 to 20 s a pack) pays

Net = Callable[[tuple[int, ...], int], nn.Module]
"""A function of (input shape, number of outputs) that builds a network."""


def several(chain: object, measures: object) -> None:
    """`ValueError` for one intervention in place of a chain, or one measure in place of a tuple of them.

    >>> several(Chain(), ())
    """
    if not isinstance(chain, Chain):
        got = f"{type(chain).__name__}(...)"
        raise ValueError(f"expected a Chain of interventions, got {got}: write chain=Chain({got})")
    if not isinstance(measures, tuple):
        got = f"{type(measures).__name__}(...)"
        raise ValueError(f"expected a tuple of measures, got {got}: write measures=({got},)")


def at_least_one(trial: object, *names: str) -> None:
    """`ValueError` for a field, such as a count or a period, that is below 1.

    >>> from pliant.optim import SGD
    >>> at_least_one(SGD(lr=0.5), "lr")
    Traceback (most recent call last):
    ValueError: expected lr to be at least 1, got 0.5
    """
    for name in names:
        if getattr(trial, name) < 1:
            raise ValueError(f"expected {name} to be at least 1, got {getattr(trial, name)}")


def shares(trial: object, *names: str) -> None:
    """`ValueError` for a field that is not in [0, 1].

    >>> from pliant.optim import SGD
    >>> shares(SGD(lr=0.5), "lr")
    """
    for name in names:
        if not 0 <= getattr(trial, name) <= 1:
            raise ValueError(f"expected {name} in [0, 1], got {getattr(trial, name)}")


def replayed(begin: int, num_steps: int, capacity: int, batch_size: int) -> None:
    """`ValueError` where an agent would never learn, or its replay holds no batch.

    >>> replayed(begin=10, num_steps=100, capacity=50, batch_size=8)
    """
    if not 0 < begin < num_steps:
        raise ValueError(
            f"expected begin to be at least 1 and below num_steps, {num_steps}, so that anything is learned, "
            f"got {begin}"
        )
    if capacity < batch_size:
        raise ValueError(f"expected a capacity that holds a batch of {batch_size}, got {capacity}")


def built(
    net: Net,
    outputs: int,
    example: Tensor,
    chain: Chain,
    optimizer: Optimizer,
    loss: Loss,
    seeds: Sequence[int],
    events: tuple[str, ...],
    num_steps: int,
    device: str,
    dtype: torch.dtype,
    beside: Loss | None = None,
) -> Population:
    """A population of networks, a member a seed, of which the first and all later draws are as `net` makes them.

    Warns of interventions that wait for other events than `events`; `ValueError` where the network has other outputs.
    """
    shape = tuple(example.shape[1:])

    def build() -> nn.Module:
        return chain.build(net(shape, outputs), example)

    if silent := sorted(chain.events - set(events)):
        waits = ", ".join(sorted(type(i).__name__ for i in chain if set(i.events) & set(silent)))
        names = ", ".join(map(repr, silent))
        fires = f"{' and '.join(map(repr, events))} only" if events else "no events"
        warnings.warn(f"{waits} waits for {names}, but this trial fires {fires}", stacklevel=4)
    module: nn.Module | Callable[[], nn.Module] = build
    if drawn_by_layers(lambda: net(shape, outputs)):  # then drawing one layer alone is right, and faster
        with seeded(0):
            module = build()
    members = [Member(seed, optimizer, chain) for seed in seeds]
    network = Network(module, example=example)
    got = tuple(network(network.params(), example).shape)
    if got != (len(example), outputs):
        raise ValueError(f"expected a network with outputs of shape {(len(example), outputs)}, got {got}: see net")
    return Population(
        network, loss, members, compile=num_steps >= LONG, device=device, dtype=dtype, beside=beside
    )  # fmt: skip
