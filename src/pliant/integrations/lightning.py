"""The monitor and recipes as callbacks of Lightning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn

from pliant.adapter import How
from pliant.integrations._grafting import builds, graft, refuse_no_chain
from pliant.interventions import Chain
from pliant.keeper import Keeper
from pliant.monitor import Monitor


class MonitorCallback(Callback):
    """`pliant.Monitor` on a Lightning module; steps are the trainer's `global_step`, which counts optimizer steps.

    Numbers of the whole network also go to the trainer's loggers, as `pliant/...`.

    Args:
        probe: `(inputs, targets)`, or inputs alone, for the module's `forward`.
        module: the part to look at; by default the whole.
        settings: of the `Monitor`: `loss`, `every`, `diagnostics`, `sinks`, ...

    Attributes:
        monitor: the `Monitor`, once training has started.

    >>> callback = MonitorCallback((x, y), loss=loss_fn, every=1_000)  # doctest: +SKIP
    >>> lightning.Trainer(callbacks=[callback]).fit(module, loader)  # doctest: +SKIP
    """

    def __init__(
        self,
        probe: Any,
        *,
        module: Callable[[LightningModule], nn.Module] = lambda whole: whole,
        **settings: Any,
    ):
        self.probe, self.module, self.settings = probe, module, settings
        self.monitor: Monitor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the monitor."""
        self.monitor = Monitor(
            self.module(pl_module), self.probe, **{"optimizer": trainer.optimizers or None, **self.settings}
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measures what is due."""
        assert self.monitor is not None
        row = self.monitor(trainer.global_step) or {}
        whole = {f"pliant/{name}": value for name, value in row.items() if name != "step" and "/" not in name}
        for logger in trainer.loggers if whole else ():
            logger.log_metrics(whole, step=trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finishes the sinks."""
        assert self.monitor is not None
        self.monitor.close()


class RecipeCallback(Callback):
    """A recipe at work in a Lightning module, in automatic and in manual optimization.

    What the recipe builds in is built into the module before `configure_optimizers` is called. Its penalties are added
    to the loss that `training_step` returns, or in manual optimization to that which `manual_backward` is given; what
    acts after a step does so right after each step of the optimizer. Events are yours:
    `callback.event("task_switch")`. Its state is saved and loaded with the trainer's checkpoints.

    A module trains, bitwise, as it would in a loop of its own with `loss + keeper.penalty()` and `keeper.step()`.

    Args:
        recipe: a chain.
        example: one batch of inputs of the part, where the recipe builds something in.
        module: the part that is cared for, by default the whole; one optimizer trains it. Where several optimizers
            train parts of a module, give each a callback of its own, and in manual optimization write
            `loss + callback.keeper.penalty()` yourself, as only you know whose loss it is.
        seed: where everything that is drawn comes from.
        call: how `training_step` calls the part, where that is not its `forward`: the name of a method.
        fresh: a function that builds the part anew, for one with an initialisation of its own.

    Attributes:
        keeper: the `Keeper`, once training has started.

    >>> recipe = Chain(LayerNorm(), L2(1e-4))  # doctest: +SKIP
    >>> lightning.Trainer(callbacks=[RecipeCallback(recipe, example=x)]).fit(module, loader)  # doctest: +SKIP
    """

    def __init__(
        self,
        recipe: Chain,
        example: Any = None,
        *,
        module: Callable[[LightningModule], nn.Module] = lambda whole: whole,
        seed: int = 0,
        call: How | None = None,
        fresh: Callable[[], nn.Module] | None = None,
    ):
        refuse_no_chain(recipe)
        self.recipe, self.example, self.module = recipe, example, module
        self.seed, self.call, self.fresh = seed, call, fresh
        self.keeper: Keeper | None = None
        self._saved: dict[str, Any] | None = None
        self._handle: Any = None

    def event(self, name: str, tied: Any = ()) -> None:
        """Something happened, such as `"task_switch"`; see `Keeper.event`."""
        if self.keeper is None:
            raise ValueError(f"the event {name!r} before training: call trainer.fit(...) first")
        self.keeper.event(name, tied)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Builds in what the recipe builds in."""
        part = self.module(pl_module)
        if stage != "fit" or not builds(self.recipe) or hasattr(part, "built_in"):
            return
        if self.example is None:
            raise ValueError(
                f"{self.recipe} changes the module: write RecipeCallback(recipe, example=x), x a batch of inputs"
            )
        held, pl_module._trainer = pl_module._trainer, None  # the trainer is not copied with the module
        try:
            graft(self.recipe, part, self.example, self.call)
        finally:
            pl_module._trainer = held

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the keeper, or tells it of a new optimizer."""
        part = self.module(pl_module)
        ours = set(part.parameters())
        held = [o for o in trainer.optimizers if any(p in ours for group in o.param_groups for p in group["params"])]
        if len(held) != 1:
            raise ValueError(
                f"expected one optimizer of the part that is cared for, got {len(held)}: write "
                "RecipeCallback(recipe, module=lambda whole: whole.critic), a callback for each"
            )
        if self.keeper is None:
            self.keeper = self.recipe.attach(part, held[0], self.seed, self.fresh, self.call)
        else:
            self.keeper.follow(held[0])
        if self._saved is not None:
            self.keeper.load_state_dict(self._saved)
            self._saved = None
        keeper = self.keeper
        self._handle = held[0].register_step_post_hook(lambda *_: keeper.step())
        if pl_module.automatic_optimization:
            vars(pl_module)["training_step"] = self._penalised(pl_module.training_step)
        elif len(trainer.optimizers) == 1:
            vars(pl_module)["manual_backward"] = self._before(pl_module.manual_backward)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the module as it was."""
        self._leave(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves the module as it was."""
        self._leave(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """What the keeper holds."""
        return {} if self.keeper is None else self.keeper.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken, once training starts."""
        self._saved = state_dict

    def _penalised(self, training_step: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            output = training_step(*args, **kwargs)
            if isinstance(output, Mapping):
                return {**output, "loss": self._whole(output["loss"])}
            return output if output is None else self._whole(output)

        return step

    def _before(self, backward: Callable[..., Any]) -> Callable[..., Any]:
        return lambda loss, *args, **kwargs: backward(self._whole(loss), *args, **kwargs)

    def _whole(self, loss: Tensor) -> Tensor:
        assert self.keeper is not None
        return loss + self.keeper.penalty(loss) if self._penalises else loss

    @property
    def _penalises(self) -> bool:
        return any(member.overrides("penalty") for member in self.recipe)

    def _leave(self, pl_module: LightningModule) -> None:
        for name in ("training_step", "manual_backward"):
            vars(pl_module).pop(name, None)
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
