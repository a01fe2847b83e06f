"""Our optimizers in a loop of your own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pliant.network import Params
from pliant.optim.base import Optimizer, noise_generator


class TorchOptimizer(torch.optim.Optimizer):
    """Any of pliant's optimizers as a `torch.optim.Optimizer`, equal to a population of one.

    Parameters without a gradient are skipped, gradients are left as they are, and schedulers find the learning rate in
    `param_groups`; all other settings are the optimizer's. State is named as in torch.optim, one step count a
    parameter. `SAM` wants the closure: `step` calls it twice (what it updates beside gradients, such as running
    statistics, is updated twice) and returns the first loss.

    Args:
        params: a module, or what torch.optim takes: parameters, or groups of them with an `lr` each.
        optimizer: the settings.
        seed: where the noise comes from, with the number of steps taken; only for an optimizer that draws (`UPGD`).

    >>> from pliant.optim import Adam
    >>> model = nn.Linear(2, 1)
    >>> optimizer = TorchOptimizer(model, Adam(lr=1e-3, eps_root=1e-3))
    >>> model(torch.ones(4, 2)).square().mean().backward()
    >>> optimizer.step()
    >>> optimizer.zero_grad()
    >>> optimizer
    TorchOptimizer (Adam(lr=0.001, betas=(0.9, 0.999), eps=1e-08, eps_root=0.001)
    Parameter Group 0
        lr: 0.001
    )
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]],
        optimizer: Optimizer,
        *,
        seed: int | None = None,
    ):
        if not isinstance(optimizer, Optimizer):
            raise ValueError(f"expected an optimizer of pliant, got {optimizer!r}: write TorchOptimizer(model, Adam())")
        if optimizer.draws and seed is None:
            raise ValueError("expected a seed for the noise, got None: write TorchOptimizer(model, optimizer, seed=0)")
        self.optimizer = optimizer
        defaults = {"lr": optimizer.lr} | ({"seed": seed, "steps": 0} if optimizer.draws else {})
        super().__init__(params.parameters() if isinstance(params, nn.Module) else params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        unknown = ", ".join(sorted(set(param_group) - {"params", "param_names", "lr", "initial_lr"}))
        if unknown:
            raise ValueError(f"expected groups with params and lr, got {unknown}: write it in {self.optimizer}")
        if self.param_groups and not self.optimizer.elementwise:
            name = type(self.optimizer).__name__
            raise ValueError(f"expected one parameter group, got a second one: {name} looks at all parameters at once")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update from the gradients there are, or from those that `closure` computes; its loss is returned."""
        if self.optimizer.ascends and closure is None:
            raise ValueError(
                f"{type(self.optimizer).__name__} computes the gradient twice: write optimizer.step(closure), with a "
                "function that calls zero_grad() and backward() and returns the loss"
            )
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
            if self.optimizer.ascends:
                self._gradient_at_ascent(closure)
        first = self.param_groups[0]
        generator = noise_generator(first["seed"], first["steps"]) if self.optimizer.draws else None
        for group in self.param_groups:
            optimizer = self.optimizer.with_lr(float(group["lr"]))
            for params in self._alike(group["params"]):
                self._update(optimizer, params, generator)
        if self.optimizer.draws:
            first["steps"] += 1
        return loss

    def _gradient_at_ascent(self, closure: Callable[[], Any]) -> None:
        found = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        params = {str(i): p for i, p in enumerate(found)}
        before = {name: p.clone() for name, p in params.items()}
        there = self.optimizer.ascent(params, _grads(params)) if params else {}
        try:
            for name, p in there.items():
                params[name].copy_(p)
            with torch.enable_grad():
                closure()
        finally:
            for name, p in before.items():
                params[name].copy_(p)

    def _alike(self, params: list[Tensor]) -> list[Params]:
        """The parameters with a gradient, apart by step count (`Moments` has one for all), dtype and device."""
        found: dict[Any, Params] = {}
        for i, p in enumerate(params):
            if p.grad is None:
                continue
            if not self.state[p]:
                self.state[p] = {kind: group[""] for kind, group in self.optimizer.init({"": p}).items()}
                if "step" in self.state[p]:
                    self.state[p]["step"] = self.state[p]["step"].cpu()  # where torch.optim keeps it
            kind = (float(self.state[p].get("step", 0)), p.dtype, p.device) if self.optimizer.elementwise else None
            found.setdefault(kind, {})[str(i)] = p
        return list(found.values())

    def _update(self, optimizer: Optimizer, params: Params, generator: torch.Generator | None) -> None:
        first = next(iter(params.values()))
        moments = {kind: {name: self.state[p][kind] for name, p in params.items()} for kind in self.state[first]}
        counts = moments.pop("step", {}).values()
        if counts:
            moments["step"] = {"": self.state[first]["step"].to(first.device, copy=True)}
        optimizer.update(params, _grads(params), moments, generator)
        for count in counts:
            count.add_(1)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "optimizer": self.optimizer}

    def __repr__(self) -> str:
        return super().__repr__().replace("(", f"({self.optimizer}", 1)


def _grads(params: Params) -> Params:
    """Copies, as an update may overwrite what it gets."""
    return {name: p.grad.clone() for name, p in params.items() if p.grad is not None}


def several(optimizer: Any) -> tuple[torch.optim.Optimizer, ...]:
    """One optimizer of torch.optim, or several in a list or tuple; wrapped ones (accelerate's) without the wrapper.

    Raises `ValueError` for everything else.

    >>> [type(o).__name__ for o in several(torch.optim.SGD([torch.ones(1)], lr=0.1))]
    ['SGD']
    """
    given = list(optimizer) if isinstance(optimizer, (list, tuple)) else [optimizer]
    found: list[torch.optim.Optimizer] = []
    for one in given:
        while isinstance(getattr(one, "optimizer", None), torch.optim.Optimizer):
            one = one.optimizer
        if isinstance(one, Optimizer):
            line = f"write pliant.optim.TorchOptimizer(model, {type(one).__name__}(...))"
        elif isinstance(one, type) and issubclass(one, torch.optim.Optimizer):
            line = f"write torch.optim.{one.__name__}(model.parameters())"
        else:
            line = "write torch.optim.Adam(model.parameters()), or [optimizer_a, optimizer_b] for several"
        if not isinstance(one, torch.optim.Optimizer):
            got = one.__name__ if isinstance(one, type) else type(one).__name__
            raise ValueError(f"expected an optimizer of torch.optim, or several in a list, got {got}: {line}")
        if not any(one is other for other in found):
            found.append(one)
    if not found:
        raise ValueError("expected an optimizer of torch.optim, or several in a list, got none: write [optimizer]")
    return tuple(found)


class Steps:
    """Which optimizers took a step since `taken` was last cleared, by hooks of theirs.

    Args:
        told: called after each step, with whether that optimizer had taken one already.
    """

    def __init__(
        self, optimizers: tuple[torch.optim.Optimizer, ...], told: Callable[[bool], None] = lambda again: None
    ):
        self._told = told
        self.taken: set[int] = set()
        self._handles = [optimizer.register_step_post_hook(self._stepped) for optimizer in optimizers]

    def close(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()

    def _stepped(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        again = id(optimizer) in self.taken
        if again:
            self.taken.clear()
        self.taken.add(id(optimizer))
        self._told(again)
