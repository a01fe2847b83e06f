"""The monitor: two lines in a training loop, which train nothing and change nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pliant.adapter import How
from pliant.diagnostics import Diagnostic
from pliant.monitor.choice import schedule
from pliant.monitor.once import Once
from pliant.monitor.past import Past
from pliant.monitor.rates import Rates
from pliant.monitor.reading import read
from pliant.monitor.reference import References
from pliant.monitor.sinks import Row, Sink, table
from pliant.monitor.subject import Loss, Subject
from pliant.outline import Outline
from pliant.words import first_line

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

FOLLOW = "where a new one is made, write monitor.follow(optimizer)"


class Monitor:
    """Measures a network on a batch of its own while your loop trains it; training is bitwise the same without.

    Call it once a step, after `optimizer.step()`. It measures at its first call and whenever the step reaches or passes
    a multiple of a diagnostic's period. Parameters, gradients, buffers, modes, random streams and hooks stay as they
    are. Whatever fails once training runs ends no training: it is named once in a warning, and its numbers are missing.

    Where the model changes (new heads, swapped or resized layers, `load_state_dict(assign=True)`, another device or
    dtype), it is measured as it is from then on; what compares a new parameter with the past begins with it.

    Compiled and distributed models are fine (the latter are measured on rank 0 alone); under `autocast`, the network is
    measured in the precision of its parameters. A model of several inputs takes `probe=(pliant.Inputs((a, b), {}), y)`,
    one of named inputs a dict of them; what the model returns goes to `loss` as it is.

    It is measured in the mode in which it is when the monitor is called, `train()` or `eval()`; dropout and batch
    normalisation stay as they were at the start, as does what draws random numbers otherwise.

    The *update* that some diagnostics ask for is what changed since the call before; the *earlier* trace is that of the
    last measurement, or of the last `mark`.

    Each number has a *reference*, the mean of three fresh networks on the same probe: in the first row that has the
    number, as `fresh/<name>`, and in pictures as a dashed line. What compares two moments has none. Where fresh
    networks are far from healthy, before any training, a warning says so.

    Raises `ValueError` for what cannot be measured: dropout and batch normalisation in train mode without `purify`, a
    network without nonlinearities, a loss that is no scalar, a diagnostic asked for that fails on the probe.

    Args:
        model: any module.
        probe: `(inputs, targets)`, or inputs alone; copied. For ranks, two samples a feature or more.
        mask: for sequences, `(batch, tokens)` and boolean: False at padding, which is left out of what is measured. The
            loss leaves it out by itself (`ignore_index`, say).
        loss: of output and targets, for what needs gradients.
        optimizer: of the model, or several in a list; what none of them holds, or what is frozen, is no part of
            gradients, updates, kernels and curvature (where nothing is trained, all counts, with a warning). The
            learning rate (the first group's) becomes the column `learning_rate`, and those of all groups, where they
            differ, `learning_rate/0`, `learning_rate/1`, ...
        every: steps between two measurements.
        diagnostics: what to measure, or a mapping from each diagnostic to a period of its own.
        tier: instead of diagnostics, all that need no settings up to a cost: `"economy"` (a forward pass), `"business"`
            (a backward pass; the default where there is a loss) or `"full"`. The dear ones (ranks of weights, offset
            of the features and output bias, duplicate units) are due every tenth time only.
        initial: the parameters before training, by name, where it began elsewhere; else those at this moment.
        purify: measure without dropout, and batch normalisation by the statistics of the probe.
        fresh: a function that builds the model as it begins, where `reset_parameters` draws something else.
        call: what the model computes where that is not its `forward` (an agent without one): the name of another
            method, or a function of the model and its inputs, as in `call=lambda agent, x: agent.actor(x)`.
        sinks: where the rows go, beside `rows`; see `pliant.monitor.sinks`.

    Attributes:
        rows: what was measured, one dict of numbers a measured step, `"step"` first.

    >>> from pliant.diagnostics import DeadUnits, ParameterNorm
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> monitor = Monitor(model, torch.randn(8, 2), diagnostics={DeadUnits(): 2, ParameterNorm(): 4})
    >>> for step in range(6):
    ...     _ = monitor(step)
    >>> [row["step"] for row in monitor.rows], "dead" in monitor.rows[1], "norm_ratio" in monitor.rows[1]
    ([0, 2, 4], True, False)
    """

    def __init__(
        self,
        model: nn.Module,
        probe: Any,
        *,
        mask: Tensor | None = None,
        loss: Loss | None = None,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
        every: int = 1_000,
        diagnostics: Iterable[Diagnostic] | Mapping[Diagnostic, int] | None = None,
        tier: str | None = None,
        initial: Mapping[str, Tensor] | None = None,
        purify: bool = False,
        fresh: Callable[[], nn.Module] | None = None,
        call: How | None = None,
        sinks: Iterable[Sink] = (),
    ):
        self.rows: list[Row] = []
        self._once, self._references = Once(), References()
        self._last: int | None = None
        if isinstance(sinks, Sink) or not all(isinstance(sink, Sink) for sink in sinks):
            raise ValueError(
                f"expected a list of sinks, got {sinks!r}: write sinks=[pliant.monitor.JSONL('rows.jsonl')]"
            )
        self._sinks = list(sinks)
        self._idle = not _first_process()
        if self._idle:
            return
        self._settings = loss, purify, call, mask, fresh
        self._subject = Subject(model, probe, *self._settings)
        self._outline, self._blind = Outline(self._subject.model), False
        self._renewed = False  # at this call
        self._dtype = next(self._subject.model.parameters()).dtype
        self._rates: Rates | None = None
        if optimizer is not None:
            self.follow(optimizer)
        absent = {"loss": loss, "gradients": loss, "y": self._subject.y}
        without = {name for name, value in absent.items() if value is None}
        self._schedule = schedule(diagnostics, tier, every, without, classes=_classes(self._subject.y))
        wanted = [field for field in ("initial", "update", "earlier") if self._wanting(field)]
        self._past = Past(self._subject.params(), initial, wanted)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self._try(asked=diagnostics is not None)
        self._once.pass_on("at the start", caught)

    @property
    def latest(self) -> Row:
        """The newest number of every column."""
        return {name: value for row in self.rows for name, value in row.items()}

    def __call__(self, step: int) -> Row | None:
        """Measures what is due at this step; returns the new row, or None."""
        return self._safely(self._at, step)

    def mark(self) -> None:
        """From now on, what compares with an earlier moment compares with this one: call it where a task changes."""
        self._safely(self._mark)

    def follow(self, optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer]) -> None:
        """From now on this is the model's optimizer, or these are: one made for a new task, say.

        Raises `ValueError` for one of other parameters.
        """
        if self._idle:
            return
        before, self._rates = self._rates, Rates(optimizer, self._subject.model)
        self._subject.optimizers = list(self._rates.optimizers)
        if before is not None:
            before.close()

    def state_dict(self) -> dict[str, Any]:
        """The rows and all that is kept of the past, as copies; `torch.load(..., weights_only=True)` reads it back.

        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> monitor, again = (Monitor(model, torch.randn(8, 2), every=1) for _ in range(2))
        >>> row = monitor(0)
        >>> again.load_state_dict(monitor.state_dict())
        >>> again.rows == [row]
        True
        """
        past = {} if self._idle else self._past.state_dict()
        return {"rows": [dict(row) for row in self.rows], "last": self._last, "past": past}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken, as if nothing had happened.

        Raises `ValueError`, and changes nothing, for that of another model or other diagnostics.
        """
        if not (isinstance(saved, Mapping) and saved.keys() >= {"rows", "last", "past"}):
            got = ", ".join(map(str, saved)) if isinstance(saved, Mapping) else type(saved).__name__
            raise ValueError(f"expected what monitor.state_dict() returned, got {got or 'an empty dict'}")
        if not self._idle:
            self._notice()
            self._past.load_state_dict(saved["past"])
        self.rows[:] = [dict(row) for row in saved["rows"]]
        self._references.known = self.latest
        self._last = saved["last"]

    def to_table(self) -> pa.Table:
        """The rows as an Arrow table, with null where a column was not measured."""
        return table(self.rows)

    def plot(self, *columns: str) -> Figure:
        """The rows over the steps as a figure of matplotlib, one set of axes a column, drawn like pliant's own.

        Raises `ValueError` for a column that was not measured.

        >>> monitor = Monitor(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)), torch.ones(4, 2), every=1)
        >>> _ = monitor(0), monitor(1)
        >>> len(monitor.plot("dead", "parameter_norm").axes)
        2
        """
        from pliant.monitor.picture import picture

        if not columns:
            raise ValueError("expected columns to draw, got none: write monitor.plot('dead')")
        return picture(self.rows, columns)

    def close(self) -> None:
        """Finishes the sinks, at the end of training."""
        if not self._idle and self._rates is not None:
            self._rates.close()
        for sink in () if self._idle else self._sinks:
            try:
                sink.close()
            except Exception as error:
                self._once(f"close {sink!r}", f"{sink} could not be closed: {first_line(error)}")

    # -- at the start --------------------------------------------------------------------------------------------------

    def _try(self, asked: bool) -> None:
        """Measures once all but the costly: what fails is left out with a warning, or refused if asked for by name."""
        cheap = [diagnostic for diagnostic in self._schedule if diagnostic.cost != "full"]
        with self._subject.undisturbed():
            self._subject.check()
            if self._wanting("earlier"):
                self._past.earlier = self._subject.trace()
            found, failed = read(self._subject, cheap, self._past, self._once)
        for diagnostic, error in failed.items():
            if asked:
                raise ValueError(f"{diagnostic} cannot be measured on this probe: {first_line(error)}") from error
            del self._schedule[diagnostic]
        if failed:
            names: dict[str, list[str]] = {}
            for diagnostic, error in failed.items():
                names.setdefault(first_line(error), []).append(type(diagnostic).__name__)
            what = "; ".join(f"{', '.join(those)}: {why}" for why, those in names.items())
            warnings.warn(f"left out, as this probe cannot measure it: {what}", stacklevel=2)
        owners: dict[str, Diagnostic] = {}
        for diagnostic, numbers in found.items():
            for column in numbers:
                if column in owners:
                    raise ValueError(
                        f"{owners[column]} and {diagnostic} both measure {column!r}: leave one of them out"
                    )
                owners[column] = diagnostic

    # -- at work -------------------------------------------------------------------------------------------------------

    def _safely(self, method: Callable[..., Any], *args: Any) -> Any:
        """What happens here must not end a training."""
        try:
            return method(*args)
        except Warning:  # of a user who wants errors
            raise
        except Exception as error:
            self._once("all", f"the network could not be measured: {first_line(error)}")

    def _at(self, step: int) -> Row | None:
        step = int(step)
        last, self._last = self._last, step
        if self._idle or step == last:
            return None
        self._renewed = False
        self._notice()
        if last is not None and step < last:
            back = f"step {step} came after step {last}: count on over the whole training"
            self._once("back", back, stacklevel=5)
        due = [d for d, every in self._schedule.items() if last is None or step // every != last // every]
        row, caught = None, []
        if due and not self._blind:
            with warnings.catch_warnings(record=True) as caught, self._subject.undisturbed():
                warnings.simplefilter("always")
                row = self._safely(self._measure, step, due)
        if self._past.before is not None and not self._blind:
            self._look_ahead(step, last)
        self._once.pass_on(f"step {step}", caught)
        return row

    def _mark(self) -> None:
        if self._idle:
            return
        self._past.marked = True
        if not self._wanting("earlier"):
            return
        self._notice()
        with warnings.catch_warnings(), self._subject.undisturbed():
            warnings.simplefilter("ignore")
            self._past.earlier = self._subject.trace()

    def _notice(self) -> None:
        """Takes the model as it is by now, if it is made of other parts than at the call before."""
        if self._outline.holds:
            return
        model, before = self._subject.model, self._outline
        self._outline = Outline(model)
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")
            was, self._dtype = self._dtype, next(model.parameters()).dtype
            probe = _cast((self._subject.x, self._subject.y), was, self._dtype)
            problem = None
            try:
                self._subject = Subject(model, probe, *self._settings)
                self._subject.optimizers = [] if self._rates is None else self._rates.of(model)
            except Exception as error:
                problem = error
            self._blind = problem is not None
            new, layers = before.replaced(model), not before.same_layers(self._outline)
            now = {name: p.detach() for name, p in model.named_parameters()}
            self._past.renew(now, new, layers or bool(new))
            if layers or new:
                self._references.forget()
            self._renewed = True
        if problem is not None:
            self._once("blind", f"the model changed and can no longer be measured: {first_line(problem)}")
        if new:
            names = ", ".join(sorted(new))
            self._once("new", f"{names} are new in the model: what compares with the past begins anew with them")
        if self._rates is not None and (lacking := self._rates.newly_lacking(model)):
            names = ", ".join(lacking)
            self._once("lacking", f"the optimizer does not hold {names}, which the model has by now: {FOLLOW}")

    def _measure(self, step: int, due: list[Diagnostic]) -> Row | None:
        if not self._past.fresh and (late := [d for d in due if "update" in d.needs]):
            due = [d for d in due if d not in late]
            if not self._renewed:
                self._once(
                    "update", f"{late[0]} needs the parameters one call before: call the monitor at regular steps"
                )
        if self._past.earlier is None and (late := [d for d in due if "earlier" in d.needs]):
            due = [d for d in due if d not in late]  # the layers are new
            self._past.earlier = self._subject.trace()
        found, failed = read(self._subject, due, self._past, self._once)
        for diagnostic, error in failed.items():
            self._once(repr(diagnostic), f"{diagnostic} could not be measured and is missing: {first_line(error)}")
        row: Row = {"step": step}
        if self._rates is not None:
            if self._rates.elsewhere(self._subject.model):
                self._once("steps", f"the model was trained without a step of the monitor's optimizer: {FOLLOW}")
            row |= self._rates.row()
        for numbers in found.values():
            row |= numbers
        row |= self._references(self._subject, list(found), row, self._once)
        self.rows.append(row)
        for sink in list(self._sinks):
            try:
                sink.write(row)
            except Exception as error:
                self._sinks.remove(sink)
                self._once(repr(sink), f"{sink} gets no more rows: {first_line(error)}")
        return row

    def _look_ahead(self, step: int, last: int | None) -> None:
        """Keeps the parameters where the next call, if it comes as soon as this one did, asks what changed since."""
        periods = [every for diagnostic, every in self._schedule.items() if "update" in diagnostic.needs]
        self._past.fresh = last is None or any((2 * step - last) // every != step // every for every in periods)
        if self._past.fresh:
            self._past.keep(self._subject.params())

    def _wanting(self, field: str) -> bool:
        return any(field in diagnostic.needs for diagnostic in self._schedule)


def _classes(y: Any) -> bool:
    """Whether targets are class labels."""
    return isinstance(y, Tensor) and not y.is_floating_point()


def _first_process() -> bool:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not distributed or torch.distributed.get_rank() == 0


def _cast(probe: Any, was: torch.dtype, now: torch.dtype) -> Any:
    """A probe in the dtype that the model has by now, where it had that of the model before."""
    return tree_map(lambda t: t.to(now) if isinstance(t, Tensor) and t.dtype == was else t, probe)
