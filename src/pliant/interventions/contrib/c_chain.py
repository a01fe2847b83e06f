"""Reduction of churn (C-CHAIN)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from pliant.interventions.base import Change, Intervention, Seen, State
from pliant.network import Network, Params
from pliant.optim import Moments


@dataclass(frozen=True)
class CChain(Intervention):
    """`strength` times E_x D(f_theta(x), f_then(x)) over other inputs than the batch's, added to the loss.

    `then` are the parameters `lag` steps ago, and the other inputs those of the training batches before: the latest,
    as many as the example that the network was made with. What changes on them is churn: one step's side effect on
    inputs that it did not see. Costs a forward and a backward pass a step, and the memory of `lag + 1` networks.

    Raises `ValueError` for a network that was made without an example, or returns no tensor (or several, with `"kl"`).

    Args:
        strength: at least 0; 0 is no penalty.
        lag: how many steps ago, at least 1; 1 is what the published code calls `reg_his_idx=2`.
        distance: D: `"squared"`, the sum over outputs of squared differences (of all tensors that the network returns),
            or `"kl"`, the Kullback-Leibler divergence of the old softmax from the new one.

    >>> network = Network(torch.nn.Linear(1, 1, bias=False), example=torch.tensor([[2.0]]))
    >>> chain = CChain(0.5)
    >>> state = chain.init(network, {"weight": torch.tensor([[1.0]])})
    >>> chain.penalty(network, {"weight": torch.tensor([[4.0]])}, state, Seen(torch.tensor(0), torch.tensor(0.1), None))
    tensor(18.)

    Source: Tang et al. 2025 and their code. Deviations: the squared distance is summed over outputs, where the code
    takes their mean, so that its strength is ours times their number; the inputs are those of earlier batches, not a
    second draw of the data; the squared distance is our default for every kind of output (theirs depends on what the
    network is for); the direction of the divergence is ours; the strength has no default.
    """

    reference: ClassVar[str] = "tang2025"
    touches: ClassVar[str] = "gradients"

    strength: float
    lag: int = 1
    distance: Literal["squared", "kl"] = "squared"

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ValueError(f"expected strength of CChain to be at least 0 and finite, got {self.strength!r}")
        if not (isinstance(self.lag, int) and self.lag >= 1):
            raise ValueError(f"expected lag of CChain to be a whole number of at least 1, got {self.lag!r}")
        if self.distance not in ("squared", "kl"):
            raise ValueError(f"expected distance of CChain to be 'squared' or 'kl', got {self.distance!r}")

    def init(self, network: Network, params: Params) -> State:
        if network.example is None:
            raise ValueError("CChain needs to know how many inputs to keep: write Network(module, example=x)")
        like = next(iter(params.values()))
        kinds = {i: like.dtype if t.is_floating_point() else t.dtype for i, t in _leaves(network.example)}
        x = {i: t.to(like.device, kinds[i], copy=True) for i, t in _leaves(network.example)}
        past = {name: torch.stack([p] * (self.lag + 1)) for name, p in params.items()}  # newest first
        return {"x": x, "past": past}

    def penalty(self, network: Network, params: Params, state: State, seen: Seen) -> Tensor:
        then = {name: past[-1] for name, past in state["past"].items()}
        x = _filled(network.example, state["x"])
        outputs = [self._outputs(network, network(p, x)) for p in (params, then)]
        terms = [self._churn(new, old) for new, old in zip(*outputs, strict=True)]
        return sum(terms[1:], start=terms[0])

    def _churn(self, new: Tensor, old: Tensor) -> Tensor:
        if self.distance == "squared":
            churn = (new - old).square()
        else:
            churn = old.softmax(-1) * (old.log_softmax(-1) - new.log_softmax(-1))
        return self.strength * churn.sum() / len(churn)

    def _outputs(self, network: Network, output: Any) -> list[Tensor]:
        found = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
        if not found or (self.distance == "kl" and len(found) > 1):
            wanted = "tensors" if self.distance == "squared" else "one tensor of logits"
            raise ValueError(
                f"CChain with distance={self.distance!r} expected {type(network.module).__name__} to return {wanted}, "
                f"got {type(output).__name__} with {len(found)}"
            )
        return found

    def after_step(self, network: Network, params: Params, moments: Moments, state: State, seen: Seen) -> Change:
        past = {name: torch.cat([params[name][None], past[:-1]]) for name, past in state["past"].items()}
        latest = dict(_leaves(seen.x))
        x = {i: torch.cat([latest[i], kept])[: len(kept)] for i, kept in state["x"].items()}
        return Change(state={"x": x, "past": past})


def _leaves(inputs: Any) -> list[tuple[str, Tensor]]:
    """The tensors among the inputs, numbered; most networks take one."""
    return [(str(i), leaf) for i, leaf in enumerate(tree_leaves(inputs)) if isinstance(leaf, Tensor)]


def _filled(inputs: Any, tensors: dict[str, Tensor]) -> Any:
    """Inputs with other tensors in their places."""
    leaves, form = tree_flatten(inputs)
    return tree_unflatten([tensors.get(str(i), leaf) for i, leaf in enumerate(leaves)], form)
