"""The learning rates of a model that is watched."""

from __future__ import annotations

from typing import Any

from torch import nn

from pliant.monitor.sinks import Row
from pliant.optim.torch_optimizer import Steps, several


class Rates:
    """The optimizers of a model, whose learning rates are told, and whether it is they that train it.

    Raises `ValueError` for one of other parameters.

    >>> import torch
    >>> model = nn.Linear(1, 1)
    >>> Rates(torch.optim.SGD(model.parameters(), lr=0.5), model).row()
    {'learning_rate': 0.5}
    """

    def __init__(self, optimizer: Any, model: nn.Module):
        self.optimizers = several(optimizer)
        if len(self.of(model)) < len(self.optimizers):
            raise ValueError(
                "expected the optimizer of the model, got one of other parameters: make it of model.parameters()"
            )
        self._lacking = set(self._missing(model))
        self._steps: Steps | None = Steps(self.optimizers)
        self._version: int | None = None  # of the parameters at the last measurement

    def row(self) -> Row:
        """The learning rate of the first group, and those of all groups where they differ."""
        rates = [float(group["lr"]) for optimizer in self.optimizers for group in optimizer.param_groups]
        return {"learning_rate": rates[0]} | (
            {f"learning_rate/{i}": rate for i, rate in enumerate(rates)} if len(set(rates)) > 1 else {}
        )

    def of(self, model: nn.Module) -> list[Any]:
        """The optimizers that hold something of a model."""
        ours = set(model.parameters())
        return [o for o in self.optimizers if any(p in ours for group in o.param_groups for p in group["params"])]

    def newly_lacking(self, model: nn.Module) -> list[str]:
        """Names of the parameters that train, and that no optimizer holds, unlike before."""
        before, now = self._lacking, self._missing(model)
        self._lacking = set(now)
        return [name for name in now if name not in before]

    def elsewhere(self, model: nn.Module) -> bool:
        """Whether somebody else trained the model since the last time: it changed, and no optimizer took a step."""
        if self._steps is None:
            return False
        before, self._version = self._version, sum(p._version for p in model.parameters())
        found = before not in (None, self._version) and not self._steps.taken
        self._steps.taken.clear()
        return found

    def close(self) -> None:
        """Leaves the optimizers alone."""
        if self._steps is not None:
            self._steps.close()
            self._steps = None

    def _missing(self, model: nn.Module) -> list[str]:
        held = {p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]}
        return [name for name, p in model.named_parameters() if p.requires_grad and p not in held]
