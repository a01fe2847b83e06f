"""One example at a time: the network and its loss as functions of a single example, for per-example gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from pliant.diagnostics._poke import mixed, mixes_examples
from pliant.diagnostics._shared import given
from pliant.diagnostics.base import Observation
from pliant.levels import depth
from pliant.modules import GLOBAL_STREAM, unpadded
from pliant.network import Network, Params


def outputs_of_one(seen: Observation) -> Callable[..., Tensor]:
    """The network's outputs for one example, flattened; padding, as its row of the mask says, is 0.

    Raises `ValueError` for a network in which examples mix (statistics over the batch, nodes of a graph): one alone has
    no output there.
    """
    network = per_example(seen)

    def outputs(params: Params, x: Any, mask: Tensor | None = None) -> Tensor:
        found = as_tensor(network(seen.params | params, batch_of_one(x)))
        return unpadded(found, batch_of_one(mask)).flatten()

    return outputs


def loss_of_one(seen: Observation) -> Callable[[Params, Any, Any], Tensor]:
    """The loss of one example, a scalar; raises as `outputs_of_one` does."""
    network, loss = per_example(seen), given(seen.loss, "loss")
    return lambda params, x, y: loss(network(seen.params | params, batch_of_one(x)), batch_of_one(y))


@contextmanager
def example_by_example() -> Iterator[None]:
    """Errors of `torch.vmap` over examples as a `ValueError` that says what to write."""
    try:
        yield
    except RuntimeError as error:
        said = str(error)
        if depth() or not ("vmap" in said or "functorch" in said):  # a population's members run in a loop then
            raise
        if "randomness" in said:
            raise ValueError(GLOBAL_STREAM) from error
        raise ValueError(
            "expected a network that torch.vmap runs an example at a time, got one with a step that it has no rule for "
            "(a decision that depends on data, a number out of a tensor): leave diagnostics of single examples out"
        ) from error


def trained(seen: Observation) -> Params:
    """The parameters that are trained: what the functions here are differentiated with respect to."""
    return {name: seen.params[name] for name in given(seen.network, "network").trained}


def as_tensor(output: Any) -> Tensor:
    """The network's output, or a `ValueError` where it is no tensor."""
    if not isinstance(output, Tensor):
        raise ValueError(
            f"expected a tensor as the network's output, got {type(output).__name__}: make the model return a tensor"
        )
    return output


def batch_of_one(example: Any) -> Any:
    """The example with an axis in front, of each tensor of a tree."""
    return tree_map(lambda leaf: leaf[None] if isinstance(leaf, Tensor) else leaf, example)


def per_example(seen: Observation) -> Network:
    """The network, if its output for an example does not depend on the rest of the batch."""
    network, x = given(seen.network, "network"), given(seen.x, "x")
    mixes = any(isinstance(m, _BatchNorm) and m.running_mean is None for m in network.module.modules())
    if network.example is not None:
        mixes = mixes or mixes_examples(network)
    elif not depth():
        mixes = mixes or mixed(network, seen.params, x)
    if mixes:
        raise ValueError(
            "expected a network whose examples do not mix, got one in which they do (statistics over the batch, nodes "
            "of a graph): leave diagnostics of single examples out, or normalise each sample (LayerNorm)"
        )
    return network
