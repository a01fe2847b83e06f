"""What `pliant diagnose` measures: a module on a batch, the tensors of a file, and the causes of what it has lost."""

from __future__ import annotations

import argparse
import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant import optim
from pliant.adapter import How, adapted
from pliant.causes import Causes, disentangle
from pliant.cli.checkpoints import ambiguous
from pliant.cli.checkpoints import optimizer as rebuilt
from pliant.cli.saved import Checkpoint
from pliant.diagnostics import Diagnostic, DormantUnits, registered
from pliant.functional import norms, ranks
from pliant.monitor.subject import Subject
from pliant.own import function
from pliant.probe import FreshLabels, Probe, Sines
from pliant.words import first_line

LEAST = 16  # samples of a batch
FEW = 64  # samples for what holds samples x parameters numbers, as P2 measures its kernels
LOSSES = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}
OPTIMIZERS = {"adam": optim.Adam, "sgd": optim.SGD, "rmsprop": optim.RMSProp}

Build = Callable[[], nn.Module]
Numbers = dict[str, Any]


class Batch(NamedTuple):
    """Inputs, targets and the loss between (these two None where they are not asked for), and how to call the model."""

    x: Tensor
    y: Tensor | None
    loss: Any
    output: Tensor
    call: How | None


def batch(model: nn.Module, x: np.ndarray, y: np.ndarray | None, given: argparse.Namespace) -> Batch:
    """The data as the model takes it; `ValueError` where it does not, or gives numbers that are not finite."""
    where = f"--data {given.data}"
    if len(x) < LEAST:
        raise ValueError(f"{where}: expected at least {LEAST} samples, got {len(x)}")
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    if like is None:
        raise ValueError(f"--model {given.model}: expected a module with parameters, got {type(model).__name__}")
    labels = x.dtype.kind == "i" or (x.dtype.kind == "u" and x.dtype.itemsize > 1)  # uint8 and bool: pixels
    inputs = torch.from_numpy(x.astype(np.int64)) if labels else torch.from_numpy(x.astype(np.float64)).to(like.dtype)
    model.eval()
    call = function(given.call, "--call ") if given.call and ":" in given.call else given.call
    try:
        with torch.no_grad():
            if call is None and isinstance(getattr(adapted(model)(inputs), "logits", None), Tensor):
                call = _logits
            called = adapted(model, call)
            output, again = called(inputs), called(inputs)
        if not isinstance(output, Tensor):
            raise ValueError(
                f"expected one tensor as output, got {type(output).__name__}: write --call module:function"
            )
    except Exception as error:
        raise ValueError(f"{where}: the model cannot be called on x of shape {x.shape}: {first_line(error)}") from None
    if not output.isfinite().all():
        raise ValueError(f"{where}: the model's outputs are not finite on x: take an earlier checkpoint")
    if not torch.equal(output, again):
        raise ValueError(f"--model {given.model}: it gives other outputs when called again, in eval mode (F.dropout?)")
    if given.loss is None:
        return Batch(inputs, None, None, output, call)
    if y is None:
        raise ValueError(f"{where}: --loss {given.loss} needs an array y")
    return Batch(inputs, _targets(y, output, given.loss, where), LOSSES[given.loss], output, call)


def _logits(model: nn.Module, *inputs: Any) -> Tensor:
    """The logits among the outputs of a model of Hugging Face."""
    return model(*inputs).logits


def _targets(y: np.ndarray, output: Tensor, loss: str, where: str) -> Tensor:
    if loss == "cross_entropy":
        if y.dtype.kind not in "iub" or y.shape != (len(output), *output.shape[2:]):
            raise ValueError(f"{where}: cross_entropy needs integer labels y, one a sample, got {y.dtype} {y.shape}")
        if output.ndim < 2 or y.min() < 0 or y.max() >= output.shape[1]:
            got = f"labels {y.min()} to {y.max()} and outputs {tuple(output.shape)}"
            raise ValueError(f"{where}: cross_entropy needs an output for every label, got {got}")
        return torch.from_numpy(y.astype(np.int64))
    if y.size != output.numel() or len(y) != len(output):
        raise ValueError(f"{where}: mse needs y of the outputs' shape {tuple(output.shape)}, got {y.shape}")
    return torch.from_numpy(y.astype(np.float64)).to(output).reshape(output.shape)


class Range(NamedTuple):
    """What some fresh networks read of one number."""

    low: float
    mean: float
    high: float

    def distance(self, value: float) -> float:
        """How far a value lies outside, in the range's width, a tenth of its size or 0.01, the largest of the three.

        >>> [round(Range(0.0, 0.02, 0.04).distance(value), 2) for value in (0.3, 0.06, 0.01)]
        [6.5, 0.5, 0.0]
        """
        if not math.isfinite(self.low + self.high):
            return 0.0
        if not math.isfinite(value):
            return math.inf
        room = max(self.high - self.low, 0.1 * max(abs(self.low), abs(self.high)), 0.01)
        return max(self.low - value, value - self.high, 0.0) / room


def reference(controls: Sequence[nn.Module], of: Batch) -> dict[str, Range]:
    """What networks that were never trained read of every number that each of them has."""
    found = [measured(control, control, of) for control in controls]
    shared = [name for name in found[0] if all(name in one for one in found)]
    each = {name: [one[name] for one in found] for name in shared}
    return {name: Range(min(values), sum(values) / len(values), max(values)) for name, values in each.items()}


def measured(model: nn.Module, control: nn.Module, of: Batch) -> Numbers:
    """Every diagnostic that asks for nothing but this moment; what cannot be measured here is missing.

    The economy tier and the tangent kernel; with a loss, all tiers. Costly ones see `FEW` samples.
    """
    missing = {"update", "earlier", *(("loss", "gradients", "y") if of.loss is None else ())}
    chosen = [cls() for cls in registered() if _complete(cls) and not cls.needs & missing]
    if of.loss is None:
        chosen = [d for d in chosen if d.cost == "economy" or type(d).__name__ == "EmpiricalNTK"]
    initial = {name: p.detach() for name, p in control.named_parameters()}
    found: Numbers = {}
    for full in (False, True):
        some = [d for d in (*chosen, DormantUnits(0.025)) if (d.cost == "full") == full]
        few = slice(FEW if full else None)
        subject = Subject(
            model.eval(), (of.x[few], None if of.y is None else of.y[few]), of.loss, purify=False, call=of.call
        )
        with subject.undisturbed():
            subject.network().say_unread()
            seen = subject.observe(frozenset[str]().union(*(d.needs for d in some)), {"initial": initial})
            for diagnostic in some:
                try:
                    numbers = diagnostic.measure(seen)
                except Exception as error:
                    if not isinstance(error, ValueError):
                        warnings.warn(f"{diagnostic} is missing: {first_line(error)}", stacklevel=2)
                    continue
                found |= {name: float(value) for name, value in numbers.items()}
    return found


def _complete(cls: type[Diagnostic]) -> bool:
    """Whether it can be made without arguments."""
    missing = dataclasses.MISSING
    return all(f.default is not missing or f.default_factory is not missing for f in dataclasses.fields(cls))


def weights(tensors: dict[str, Tensor], begun: dict[str, Tensor]) -> dict[str, Numbers]:
    """Norms of the floating tensors, over that of a fresh draw where there is one, and ranks of the matrices."""
    found = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        one = tensor.detach().float()
        numbers: Numbers = {"shape": list(tensor.shape), "norm": float(one.norm())}
        if name in begun:
            numbers["norm_ratio"] = float(norms.norm_ratio({name: one}, {name: begun[name].float()}))
        if one.ndim > 1 and min(one.flatten(1).shape) > 1:
            s = ranks.singular_values(one.flatten(1))
            numbers |= {"spectral_norm": float(s[0]), "full_rank": len(s), "singular_values": s.tolist()}
            numbers |= {
                rank.__name__: float(rank(s)) for rank in (ranks.srank, ranks.effective_rank, ranks.stable_rank)
            }
        found[name] = numbers
    return found


def optimizer(model: nn.Module, checkpoint: Checkpoint, given: argparse.Namespace) -> tuple[Any, str]:
    """What the refits train with, and a text of it, to be formatted with the learning rate that they had.

    The checkpoint's with its state, unless another is named.
    """
    if given.optimizer is None and checkpoint.optimizers:
        made, state = rebuilt(checkpoint.optimizers, model)
        kind = type(made).__name__
        if ambiguous(state):
            warnings.warn(f"the file does not say whether it is Adam or AdamW: taken as {kind}", stacklevel=2)
        carried = "and the state in the file" if state["state"] else "without state: there is none in the file"
        return made, f"{kind}, lr={{:g}} {carried}"
    fresh = OPTIMIZERS[given.optimizer or "adam"](given.lr or 1e-3)
    why = "that in the file is left out" if checkpoint.optimizers else "there is none in the file"
    return fresh, f"{type(fresh).__name__}, lr={{:g}} without state: {why}"


def probe(of: Batch, given: argparse.Namespace) -> Probe:
    """Random labels for a classifier, P1's sines for others, unless it is named."""
    kind = given.probe or ("labels" if given.loss == "cross_entropy" else "sines")
    if kind == "sines":
        return Sines()
    if of.output.shape[-1] < 2:
        raise ValueError(f"--probe labels needs 2 outputs or more, got {of.output.shape[-1]}: write --probe sines")
    return FreshLabels(of.output.shape[-1])


def causes(
    model: nn.Module,
    build: Build,
    of: Batch,
    optimizer: Any,
    probe: Probe,
    given: argparse.Namespace,
    on_progress: Callable[[int, int], None],
) -> Causes:
    """`disentangle`, with batch normalisation by each batch and without dropout."""
    budget = {name: value for name in ("targets", "steps", "lr") if (value := getattr(given, name)) is not None}
    return disentangle(
        model.train(), inputs=of.x, optimizer=optimizer, fresh=lambda: build().train(), probe=probe, purify=True,
        call=of.call, on_progress=on_progress, **budget,
    )  # fmt: skip
