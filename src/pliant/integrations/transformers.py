"""The monitor and recipes as callbacks of the Trainer of Hugging Face Transformers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback  # pyright: ignore[reportMissingImports]
from transformers.integrations import (  # pyright: ignore[reportMissingImports]
    get_reporting_integration_callbacks,
)

from pliant.integrations._grafting import builds, graft, refuse_no_chain
from pliant.interventions import Chain
from pliant.keeper import Keeper
from pliant.monitor import Monitor
from pliant.sites import Inputs


class MonitorCallback(TrainerCallback):  # pyright: ignore[reportGeneralTypeIssues]
    """`pliant.Monitor` on the model of a Trainer; steps are the Trainer's `global_step`.

    Numbers of the whole network also go to the Trainer's `log_history`, as `pliant/...`, and to the trackers that its
    `report_to` names.

    Most of these models have dropout: measure without it by `purify=True`.

    Args:
        probe: a batch as the model takes it, a mapping of tensors. With `labels` in it the loss is the model's own.
        settings: of the `Monitor`: `every`, `diagnostics`, `purify`, `sinks`, ...

    Attributes:
        monitor: the `Monitor`, once training has begun.

    >>> probe = tokenizer(texts, return_tensors="pt", padding=True)  # doctest: +SKIP
    >>> Trainer(model, args, train_dataset=data, callbacks=[MonitorCallback(probe, purify=True)])  # doctest: +SKIP
    """

    def __init__(self, probe: Any, **settings: Any):
        self.probe, self.settings = probe, settings
        if "loss" not in settings and isinstance(probe, Mapping) and "labels" in probe:
            self.settings["loss"] = lambda output, _: output.loss
        self.monitor: Monitor | None = None
        self._trackers: list[Any] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        """Makes the monitor."""
        self.monitor = Monitor(model, self.probe, **{"optimizer": kwargs.get("optimizer"), **self.settings})
        if state.is_world_process_zero:  # of their own: a callback cannot reach the Trainer's; they share its runs
            self._trackers = [kind() for kind in get_reporting_integration_callbacks(args.report_to)]
            for tracker in self._trackers:
                _share_folder(tracker, Path(args.output_dir, "runs"))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measures what is due."""
        assert self.monitor is not None
        row = self.monitor(state.global_step) or {}
        numbers = {f"pliant/{name}": value for name, value in row.items() if name != "step" and "/" not in name}
        if not numbers or not state.is_world_process_zero:
            return
        state.log_history.append({**numbers, "step": state.global_step})
        for tracker in self._trackers:
            tracker.on_log(args, state, control, model=kwargs.get("model"), logs=dict(numbers))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Finishes the sinks."""
        assert self.monitor is not None
        self.monitor.close()
        for tracker in self._trackers:
            if (writer := getattr(tracker, "tb_writer", None)) is not None:
                writer.close()  # TensorBoard's are files of their own


def _share_folder(tracker: Any, runs: Path) -> None:
    """TensorBoard's begins where the Trainer's has just begun: by itself it would write below the working directory."""
    files = list(runs.rglob("events.out.tfevents*"))
    if files and getattr(tracker, "logging_dir", "elsewhere") is None:
        tracker.logging_dir = str(max(files, key=lambda file: file.stat().st_mtime_ns).parent)


class RecipeCallback(TrainerCallback):  # pyright: ignore[reportGeneralTypeIssues]
    """A recipe at work on the model of a Trainer.

    What the recipe builds in is built into the model before the Trainer makes its optimizer. Its penalties are added
    to the loss that the model returns, so `loss` in the log has them, too; what acts after a step does so right after
    each step of the optimizer. A new task is the event `"task_switch"`: each `train()` after the first, of this Trainer
    or of another one for the same model with the same callback, and each of the steps in `tasks`. Its state is saved
    with the Trainer's checkpoints.

    A model trains, bitwise, as it would in a loop of its own with `loss + keeper.penalty()` and `keeper.step()`.

    Args:
        recipe: a chain.
        example: a batch as the model takes it, where the recipe builds something in.
        tasks: values of `global_step` at which a new task begins within each `train()`.
        seed: where everything that is drawn comes from.
        fresh: a function that builds the model anew, where the recipe draws: GPT-2's layers, for some, cannot be drawn
            one by one.

    Attributes:
        keeper: the `Keeper`, once training has begun.

    >>> recipe = Chain(L2Init(1e-4), ShrinkAndPerturb(0.8, 0.2))  # doctest: +SKIP
    >>> callback = RecipeCallback(recipe, fresh=make_model)  # doctest: +SKIP
    >>> for task in tasks:  # doctest: +SKIP
    ...     Trainer(model, args, train_dataset=task, callbacks=[callback]).train()
    """

    def __init__(
        self,
        recipe: Chain,
        example: Any = None,
        *,
        tasks: Collection[int] = (),
        seed: int = 0,
        fresh: Callable[[], nn.Module] | None = None,
    ):
        refuse_no_chain(recipe)
        self.recipe, self.example, self.tasks, self.seed, self.fresh = recipe, example, frozenset(tasks), seed, fresh
        self.keeper: Keeper | None = None
        self._model: nn.Module | None = None
        self._handles: list[Any] = []
        self._whole = False  # whether this step's loss has its penalty

    def event(self, name: str, tied: Any = ()) -> None:
        """Something happened, such as `"task_switch"`; see `Keeper.event`."""
        if self.keeper is None:
            raise ValueError(f"the event {name!r} before training: call trainer.train() first")
        self.keeper.event(name, tied)

    def on_init_end(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        """Builds in what the recipe builds in."""
        if not builds(self.recipe) or hasattr(model, "built_in"):
            return
        if self.example is None:
            raise ValueError(f"{self.recipe} changes the model: write RecipeCallback(recipe, example=batch)")
        if kwargs.get("optimizer") is not None:
            raise ValueError(
                f"{self.recipe} changes the model, whose optimizer is there already: write "
                "model = recipe.build(model, example) before the optimizer is made"
            )
        named = self.example if isinstance(self.example, Mapping) else None
        graft(self.recipe, model, self.example if named is None else Inputs((), dict(named)))

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        """Makes the keeper; at another time, tells it of the new optimizer and of a task that begins."""
        optimizer = kwargs["optimizer"]
        optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate's holds it
        if self.keeper is None:
            self.keeper, self._model = self.recipe.attach(model, optimizer, self.seed, self.fresh), model
            if state.global_step:
                self.keeper.load_state_dict(self._saved(args, state))
        elif model is not self._model:
            raise ValueError("expected the model that this callback cares for, got another one: make a new callback")
        else:
            self.keeper.follow(optimizer)
            self._switch()
        keeper = self.keeper
        self._leave()
        self._handles = [optimizer.register_step_post_hook(lambda *_: keeper.step())]
        if any(member.overrides("penalty") for member in self.recipe):
            self._handles.append(model.register_forward_hook(self._penalised, with_kwargs=True))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tells of a task that begins here."""
        self._whole = False
        if state.global_step in self.tasks:
            self._switch()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Saves what the keeper holds beside the Trainer's checkpoint."""
        assert self.keeper is not None
        if state.is_world_process_zero:
            torch.save(self.keeper.state_dict(), _file(args, state))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leaves the model's loss as it was."""
        self._leave()

    def _switch(self) -> None:
        if "task_switch" in self.recipe.events:
            self.event("task_switch")

    def _saved(self, args: Any, state: Any) -> dict[str, Any]:
        file = _file(args, state)
        if not file.is_file():
            raise ValueError(f"expected the state of the recipe in {file}, which is not there: it begins from step 0")
        return torch.load(file, weights_only=True)

    def _penalised(self, model: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        """The output with penalties in its loss.

        Where losses are sums over `num_items_in_batch`, those of a step that accumulates gradients are added, not
        averaged: then the first has the penalty.
        """
        assert self.keeper is not None
        if not (model.training and torch.is_grad_enabled()):
            return output
        if getattr(output, "loss", None) is None:
            raise ValueError(
                "the model returns no loss that could have the penalty: write loss + callback.keeper.penalty() in a "
                "compute_loss of your Trainer"
            )
        if self._whole and "num_items_in_batch" in kwargs:
            return output
        self._whole = True
        output["loss"] = output.loss + self.keeper.penalty(output.loss)
        return output

    def _leave(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _file(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}" / "recipe.pt"
