"""One pack: trained as one population, from its checkpoint on, and stored."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime

from pliant.run.identity import code, definition, files
from pliant.run.memory import give_back, keep_freed
from pliant.run.progress import Clock, Pack, Taken
from pliant.run.store import Store, commit
from pliant.run.train import train
from pliant.trials.base import refitted

CHECK = 0.05  # seconds between two looks at whether to stop, if steps are shorter


def train_pack(
    store: Store,
    pack: Pack,
    *,
    device: str = "cpu",
    rerun: bool = False,
    on_progress: Callable[[tuple[Taken, Taken, Taken]], None] = lambda taken: None,
) -> None:
    """Trains one pack and stores it, going on from its checkpoint; does nothing where another process has done it.

    `on_progress` is told how far it is, which steps were timed, and their seconds (see `Progress.tell`).

    For processes of its own: it sets the number of threads, and how memory is kept.
    """
    import torch

    from pliant.run.checkpoint import SECONDS, Checkpoint, Pace, conditions

    torch.set_num_threads(1)
    keep_freed()
    looked = given_back = time.monotonic()
    clock: Clock | None = None

    def between_steps(step: int) -> None:
        nonlocal looked, given_back
        assert clock is not None
        clock.step(step)
        now = time.monotonic()
        if now - looked < CHECK:
            return
        looked = now
        on_progress(clock.told())
        if now - given_back > 5:
            give_back()  # 2 GB after ten minutes without this, 0.4 with it
            given_back = now

    seeds = list(pack.seeds)
    with store.writing(pack.arm, seeds, waiting=lambda: on_progress((Taken(), Taken(), Taken()))) as path:
        if not rerun and store.complete(pack.arm, seeds) is not None:
            return
        setup = store.experiment.setup(store.settings)
        arm = setup.arms[pack.arm]
        clock = Clock(Taken(arm.trial.num_steps, arm.trial.refits))
        trained, read = definition(arm), files(arm.trial)
        checkpoint = Checkpoint(path, conditions(device, seeds, trained, read, code(arm.trial)))
        if rerun:
            checkpoint.discard()
        start = time.perf_counter()
        pace = Pace(float(os.environ.get("PLIANT_CHECKPOINT_SECONDS", SECONDS)))

        def between_refits(steps: float) -> None:
            assert clock is not None
            clock.refit(steps)
            on_progress(clock.told())

        refitted.set(between_refits)
        done = train(arm.trial, seeds, device=device, checkpoint=checkpoint, pace=pace, on_progress=between_steps)
        spent = {"mode": done.mode, "threads": torch.get_num_threads(), "total_seconds": time.perf_counter() - start}
        made = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit()}
        made |= {"definition": trained, "files": read}
        store.write(pack.arm, done.tables, {**spent, **made}, rerun=rerun)
        checkpoint.discard()
