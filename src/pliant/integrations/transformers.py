"""The monitor as a callback of the Trainer of Hugging Face Transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import TrainerCallback  # pyright: ignore[reportMissingImports]
from transformers.integrations import (  # pyright: ignore[reportMissingImports]
    get_reporting_integration_callbacks,
)

from pliant.monitor import Monitor


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
