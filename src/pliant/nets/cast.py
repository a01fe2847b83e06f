"""A network in another memory layout or with fewer digits: faster, and not the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class Cast(nn.Module):
    """A network of images that sees them with channels last in memory, computes in bfloat16, or both.

    Takes images `(batch, channels, height, width)` and returns outputs in their type. Parameters are `net.` and what
    the network calls them; they and their gradients stay in float32.

    With `channels_last` convolutions add up in another order: outputs differ by rounding (1e-6 of their size), after
    which ReLU networks diverge chaotically. With `bfloat16` products of matrices and convolutions have 8 binary digits:
    outputs and gradients are off by about 1 %; layer norms stay in float32. Which is faster depends on the processor
    (`benchmarks/atari.py`). The first update of `Nature` (batch of 32, RMSProp of DQN; Adam's is much like it) is off,
    as a share of its size, by 1e-14 with channels last in float64 and by 5e-6 in float32, where rounding alone makes
    3e-5; by 5 % with bfloat16, which does nothing in float64.

    Args:
        shape: (channels, height, width) of one image.
        outputs: number of outputs.
        net: a function of (shape, outputs) that builds the network.
        channels_last: whether images lie with channels last.
        bfloat16: whether products are computed in bfloat16, by autocast.

    >>> from functools import partial
    >>> from pliant.nets import Nature
    >>> small = partial(Nature, channels=(4,), kernels=(3,), strides=(1,), hidden=8)
    >>> net = Cast((1, 6, 6), 3, small, channels_last=True, bfloat16=True)
    >>> net(torch.zeros(2, 1, 6, 6)).dtype, next(iter(net.state_dict()))
    (torch.float32, 'net.convs.0.weight')
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        net: Callable[..., nn.Module],
        channels_last: bool = False,
        bfloat16: bool = False,
    ):
        super().__init__()
        self.net, self._channels_last, self._bfloat16 = net(shape, outputs), channels_last, bfloat16

    def forward(self, x: Tensor) -> Tensor:
        if self._channels_last:
            x = x.movedim(1, -1).contiguous().movedim(-1, 1)  # as memory_format has it, but with a rule for vmap
        with ExitStack() as stack:
            if self._bfloat16:
                stack.enter_context(torch.autocast(x.device.type, torch.bfloat16))
                stack.enter_context(_LayerNormsInFloat32())
            outputs = self.net(x)
        return outputs.to(x.dtype)


class _LayerNormsInFloat32(TorchFunctionMode):
    """As autocast has it on a GPU, but not on a CPU, where gradients of one in bfloat16 have no rule for vmap."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.layer_norm and args[0].dtype is torch.bfloat16:
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))
