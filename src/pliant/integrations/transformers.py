"""The monitor as a callback of the Trainer of Hugging Face Transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import TrainerCallback  # pyright: ignore[reportMissingImports]

from pliant.monitor import Monitor


class MonitorCallback(TrainerCallback):  # pyright: ignore[reportGeneralTypeIssues]
    """`pliant.Monitor` on the model of a Trainer; steps are the Trainer's `global_step`.

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

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        """Makes the monitor."""
        self.monitor = Monitor(model, self.probe, **{"optimizer": kwargs.get("optimizer"), **self.settings})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measures what is due."""
        assert self.monitor is not None
        self.monitor(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Finishes the sinks."""
        assert self.monitor is not None
        self.monitor.close()
