"""The monitor as a callback of Lightning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer  # pyright: ignore[reportMissingImports]
from torch import nn

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
