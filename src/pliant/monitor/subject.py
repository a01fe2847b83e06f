"""A model that somebody else is training, as the pure function it is at this moment."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from pliant.adapter import How, bare
from pliant.diagnostics import Observation
from pliant.diagnostics._shared import widened
from pliant.modules import IMPURE, Impure, fitting, purified
from pliant.network import Network, Params, Trace
from pliant.sites import Inputs, several_inputs, uncompiled_parts

Loss = Callable[[Any, Any], Tensor]
PURIFY = (
    "write Monitor(model, ..., purify=True) to measure without dropout and with batch normalisation by the statistics "
    "of the probe"
)


class Subject:
    """A model in training, on a batch of its own. What is computed here is computed in a copy with the live parameters.

    Args:
        model: what is trained, compiled or distributed as may be.
        probe: `(inputs, targets)`, or inputs alone.
        loss: of output and targets, a scalar.
        purify: without dropout, and batch normalisation by the statistics of the batch.
        call: how the model is called, as in `Network`.
        mask: of sequences, `(batch, tokens)`: False at padding, which is left out.
        fresh: builds a network anew, as it begins; without it, layers are drawn by `reset_parameters`.

    Attributes:
        optimizers: that train the model; with none, all that requires a gradient counts as trained.
        frozen: whether nothing was trained when it was last looked at.
    """

    def __init__(
        self,
        model: nn.Module,
        probe: Any,
        loss: Loss | None,
        purify: bool,
        call: How | None = None,
        mask: Tensor | None = None,
        fresh: Callable[[], nn.Module] | None = None,
    ):
        self.optimizers: Sequence[torch.optim.Optimizer] = ()
        self.frozen = False
        self.model = bare(model)
        if next(self.model.parameters(), None) is None:
            raise ValueError(f"expected a model with parameters, {type(self.model).__name__} has none")
        self.x, self.y = self._here(batch(probe))
        self.loss = loss
        self.mask = None if mask is None else self._here(fitting(mask, self.x))
        self._purified = purify
        with self.undisturbed():
            pure = purified(model, call).to(next(self.model.parameters()).device) if purify else model
            try:
                self._network = Network(pure, self.x, None if purify else call, fresh)
            except Impure as error:
                raise ValueError(f"{error.problem}: {PURIFY}") from None
        self._modes = [] if purify else [layer.training for layer in self.model.modules()]

    def params(self) -> Params:
        """The live parameters: views, not copies."""
        live = dict(self.model.named_parameters())
        return {name: live[name].detach() for name in self._network.names}

    def network(self) -> Network:
        """The pure function, with copies of the live buffers (running statistics in eval mode, say).

        Trained are the parameters that require a gradient by now and that an optimizer holds, if one is known; all of
        them, as those of a target network, where there are none (`frozen`).
        """
        held = {id(p) for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]}
        live = self.model.named_parameters()
        trained = {name for name, p in live if p.requires_grad and (not self.optimizers or id(p) in held)}
        self.frozen = not trained
        self._network.trained = tuple(n for n in self._network.names if n in trained) or self._network.names
        if live := {name: b.detach().clone() for name, b in self.model.named_buffers()}:
            self._network.hold(live)
        if self._modes and (modes := [layer.training for layer in self.model.modules()]) != self._modes:
            self._modes = modes
            self._follow(modes)
        return self._network

    def _follow(self, modes: list[bool]) -> None:
        """Puts the copy in the modes of the model by now, but for what would draw random numbers or update statistics.

        Where that is not told by the kind of a layer (`F.dropout`), it stays in the modes that it has.
        """
        layers = list(self._network.module.modules())
        if len(layers) != len(modes):
            return
        before = [layer.training for layer in layers]
        for layer, training in zip(layers, modes, strict=True):
            layer.training = training and not isinstance(layer, IMPURE)
        self._network.tracer.forget()  # other modes may have other sites
        streams = self._streams()
        self._network(self.params(), self.probe()[0])
        if not all(map(torch.equal, streams, self._streams())):
            for layer, training in zip(layers, before, strict=True):
                layer.training = training

    def check(self) -> None:
        """Raises `ValueError` for a model that cannot be called on the probe, or that draws random numbers there.

        Warns of layers whose nonlinearity is not seen.
        """
        network, params, x, y = self.network(), self.params(), *self.probe()
        before = self._streams()
        try:
            output = network(params, x)
        except Exception as error:
            raise ValueError(f"the model cannot be called on the probe: {error}{several_inputs(x)}") from error
        if not all(map(torch.equal, before, self._streams())):
            line = PURIFY
            if self._purified:
                line = "without dropout it does, too: draw from a generator of the model's own, or not in eval mode"
            raise ValueError(f"the model draws from the global random stream (F.dropout?): {line}")
        network.say_unread()
        if self.loss is None:
            return
        if isinstance(self.loss, type) or not callable(self.loss):
            got = f"the class {self.loss.__name__}" if isinstance(self.loss, type) else repr(self.loss)
            line = f"{self.loss.__name__}()" if isinstance(self.loss, type) else "nn.functional.cross_entropy"
            raise ValueError(f"expected a function of output and targets as the loss, got {got}: write loss={line}")
        try:
            loss = self.loss(output, y)
        except Exception as error:
            raise ValueError(f"the loss of the output and targets of the probe fails: {error}") from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"expected loss(output, targets) to be a scalar tensor, got {got}")

    def trace(self, params: Params | None = None) -> Trace:
        """One forward pass on the probe, with everything on its way; of an output with `logits`, these."""
        params = self.params() if params is None else params
        trace = self.network().trace(params, self.probe()[0], mask=self._here(self.mask))
        return trace._replace(output=getattr(trace.output, "logits", trace.output))

    def probe(self) -> tuple[Any, Any]:
        """Inputs and targets, on the device where the parameters are by now."""
        return self._here(self.x), self._here(self.y)

    def observe(self, needs: Set[str], past: Mapping[str, Any], params: Params | None = None) -> Observation:
        """What some diagnostics need to see; `past` are the fields that the present does not tell.

        Of the live parameters, or of others in their place.
        """
        params = self.params() if params is None else params
        seen = {"network": self.network(), "loss": self.loss, **{name: self._here(t) for name, t in past.items()}}
        seen["x"], seen["y"] = self.probe()
        if "trace" in needs:
            seen["trace"] = self.trace(params)
        if "gradients" in needs:
            seen["gradients"] = self._gradients(params)
        if seen.get("update") is not None:
            seen["update"] = {name: seen["update"][name] for name in seen["network"].trained}
        return Observation(params, mask=self._here(self.mask), **{name: seen.get(name) for name in needs})

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """While something is computed for us: no graph, no autocast, nothing compiled, every stream put back."""
        devices = {p.device for p in self.model.parameters()}
        python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            with (
                torch.random.fork_rng([device for device in devices if device.type == "cuda"]),
                torch.inference_mode(False),
                torch.no_grad(),
                uncompiled_parts(),
                ExitStack() as exact,
            ):
                for kind in {"cpu"} | {device.type for device in devices}:
                    exact.enter_context(torch.autocast(kind, enabled=False))
                yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)  # noqa: NPY002

    def _gradients(self, params: Params) -> Params:
        assert self.loss is not None
        (x, y), network = self.probe(), self.network()
        seen = widened(Observation(params, network=network, x=x, y=y, loss=self.loss))
        leaves = {name: seen.params[name].detach().requires_grad_() for name in network.trained}
        with torch.enable_grad():
            loss = self.loss(network(seen.params | leaves, seen.x), seen.y)
            found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        return {k: torch.zeros_like(p) if g is None else g for (k, p), g in zip(leaves.items(), found, strict=True)}

    def _streams(self) -> list[Tensor]:
        devices = {p.device for p in self.model.parameters() if p.device.type == "cuda"}
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]

    def _here(self, tree: Any) -> Any:
        """On the device where the parameters are by now."""
        device = next(self.model.parameters()).device
        return tree_map(lambda t: t.to(device) if isinstance(t, Tensor) else t, tree)


def batch(probe: Any) -> tuple[Any, Any]:
    """Inputs and targets (None if there are none), copied; named inputs in a mapping become `Inputs`."""
    pair = isinstance(probe, (tuple, list)) and not isinstance(probe, Inputs)
    if pair and len(probe) != 2:
        raise ValueError(
            f"expected a probe of inputs and targets, got {len(probe)} values: write probe=(x, y), "
            "and x = pliant.Inputs((a, b), {}) for a model of several inputs"
        )
    x, y = probe if pair else (probe, None)
    inside = tree_leaves((x.args, x.kwargs) if isinstance(x, Inputs) else x)
    leaves = [t for t in inside if isinstance(t, (Tensor, np.ndarray))]
    if not leaves or not all(len(t) for t in leaves if t.ndim):
        got = "an empty batch" if leaves else f"{type(x).__name__} without tensors"
        raise ValueError(f"expected a batch of inputs as the probe, got {got}: write probe=(x, y), with tensors")
    if isinstance(x, Mapping):
        x = Inputs((), dict(x))
    return tree_map(_own, x), tree_map(_own, y)


def _own(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    return value.detach().clone() if isinstance(value, Tensor) else value
