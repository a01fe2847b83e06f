"""A forward pass in pieces: cut at every nonlinearity, at a point that stays the same from pass to pass.

What enters a nonlinearity is kept, what leaves it is a number of our own. Whatever else could change between two passes
is fixed by the first: random draws, and decisions (the largest of several, a threshold), whose inputs are pieces, too.
What has statistics of its own can be held fixed (see `FROZEN`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.levels import batched, mapped, unmapped
from pliant.maps import CONVOLUTIONS, PRODUCTS
from pliant.nonlinear import NONLINEARITIES
from pliant.sites import Watch

Tensors = dict[str, Tensor]

# fmt: off
MULTIPLYING = {
    F.linear, F.bilinear, F.multi_head_attention_forward, F.scaled_dot_product_attention, *CONVOLUTIONS, *PRODUCTS,
}
# fmt: on
GROUPED = {getattr(place, name) for place, name in ((F, "grouped_mm"), (torch, "_grouped_mm")) if hasattr(place, name)}
DROPOUTS = {getattr(F, name) for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout")} | {
    F.feature_alpha_dropout,
    torch.dropout,
    torch.dropout_,
    torch.feature_dropout,
    torch.feature_dropout_,
}  # fmt: skip
NOISE = {torch.randn, torch.randn_like, torch.rand, torch.rand_like}
RANKED = {torch.topk, Tensor.topk, torch.sort, Tensor.sort, torch.max, Tensor.max, torch.min, Tensor.min}
CHOOSING = ("argmax", "argmin", "argsort", "multinomial", "nonzero", "long", "int", "bool")
UNDECIDED = ("is", "new_", "zeros", "ones", "full", "empty")  # what starts so tells of no values


@dataclass
class Point:
    """What the first pass over a module fixes for all others.

    Attributes:
        leaves: what leaves every site; shapes in the first pass, which is not cut.
        decisions: whole numbers and booleans that were computed of others, in order.
        scales: sizes of what leaves normalisers, in order.
        drawn: whether the largest of several is any of them, so that each has its turn.
        noises: random numbers, by shape.
    """

    leaves: dict[str, Any] = field(default_factory=dict)
    decisions: list[Tensor] = field(default_factory=list)
    scales: list[Tensor] = field(default_factory=list)
    drawn: bool = False
    noises: Tensors = field(default_factory=dict)

    def noise(self, shape: Sequence[int]) -> Tensor:
        """Of this shape, always the same."""
        key = str(tuple(shape))
        if key not in self.noises:
            self.noises[key] = noise(shape)
        return self.noises[key]

    def with_leaves(self) -> Point:
        """The point with random numbers of the shapes that it found."""
        self.leaves = {
            name: noise(shape, 100 + place).requires_grad_() for place, (name, shape) in enumerate(self.leaves.items())
        }
        return self


class Cut(Watch):
    """One forward pass, cut at the sites.

    Args:
        composites: see `Watch`.
        point: what passes have in common.
        leaves: what leaves the sites, instead of what is in `point`; None for the first pass, which is not cut.
        freeze: whether statistics are held fixed.
        mapping: whether the pass is to be cut behind every linear map, too.

    Attributes:
        layers: what left the linear maps, and the axis of their units; where these are cut.
        pieces: what enters every site, by name, and every decision.
        axes: where the units of a site are by `unit_dim`.
        last: how many sites came before the last product.
    """

    replaces = True

    def __init__(self, composites: set[nn.Module], point: Point, leaves: dict[str, Any] | None, freeze: bool,
                 mapping: bool = False):  # fmt: skip
        super().__init__(composites)
        self.mapping = mapping
        self.layers: list[tuple[Tensor, int]] = []
        self.point, self.leaves, self.freeze = point, leaves, freeze
        self.pieces: Tensors = {}
        self.axes: dict[str, int] = {}
        self.last = self.decided = self.scaled = self.drawn = 0

    def saw(self, name: str, x: Tensor, before: Tensor, post: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        self.pieces[name], wraps = unmapped(before)
        self.axes[name] = self.unit_dim % before.ndim + len(wraps)
        if self.leaves is None:
            self.point.leaves[name] = unmapped(post)[0].shape
            return post
        leaf = self.leaves.get(name, self.point.leaves[name])
        return mapped(leaf.clone(), wraps)  # what comes after may be in place

    def keep(self, x: Tensor) -> Tensor:
        return x.clone()

    def called(self, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        args, kwargs = tuple(map(_double, args)), {name: _double(value) for name, value in kwargs.items()}
        if func in MULTIPLYING or func in GROUPED:
            self.last = self.names.total()
        if (func is F.linear or func in CONVOLUTIONS) and args and args[0].is_floating_point():
            args = (args[0].to(args[1].dtype if len(args) > 1 else torch.float64), *args[1:])  # it was cast on its way
        if func in DROPOUTS:
            return args[0] if args else kwargs["input"]
        if func in NOISE:
            found = func(*args, **kwargs)
            self.drawn += 1
            uniform = func in (torch.rand, torch.rand_like)  # in the middle: nothing is left out by chance
            return found.copy_(torch.tensor(0.5) if uniform else noise(found.shape[1:], self.drawn).expand_as(found))
        if func in (Tensor.bernoulli_, torch.bernoulli, Tensor.bernoulli):  # all that could be dropped stays
            return args[0].fill_(1.0) if func is Tensor.bernoulli_ else torch.ones_like(args[0])
        if func is F.multi_head_attention_forward:
            kwargs["training"] = False
        if func is F.scaled_dot_product_attention:
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
            kwargs = {name: value for name, value in kwargs.items() if name != "dropout_p"}
        if self.freeze and func in NORMALISING:
            return self._scaled(NORMALISING[func](self.point.noise, *args, **kwargs))
        if self.freeze and func in FROZEN:
            return FROZEN[func](*args, **kwargs)
        if func in (Tensor.float, Tensor.half, Tensor.bfloat16):
            func = Tensor.double
        if func in GROUPED:
            func = _grouped
        found = super().called(func, args, kwargs)
        if self.mapping and self.map is not None and not batched(found):
            self.layers.append((found.detach().requires_grad_(), self.map.dim))
            found = self.layers[-1][0].clone()
        if func in NONLINEARITIES or self.inside is not None:
            return found
        fixed = self._fixed(func, args, kwargs, found)
        self.masks.note(func, args, fixed)
        return fixed

    def _scaled(self, y: Tensor) -> Tensor:
        """What leaves a normaliser that is held fixed, of about size 1."""
        if self.scaled == len(self.point.scales):
            self.point.scales.append(y.detach().square().mean().sqrt().clamp(min=1e-3))
        self.scaled += 1
        return y / self.point.scales[self.scaled - 1]

    def _fixed(self, func: Callable, args: tuple, kwargs: dict[str, Any], found: Any) -> Any:
        """The result of a function, its decisions being those of the first pass."""
        x = args[0] if args else kwargs.get("input")
        if not (isinstance(x, Tensor) and x.is_floating_point()) or batched(x):
            return found
        ranked = func in RANKED and isinstance(found, tuple)
        chosen, name = found[1] if ranked else found, getattr(func, "__name__", "").strip("_")
        if not isinstance(chosen, Tensor) or chosen.is_floating_point() or chosen.is_complex():
            return found
        if name.startswith(UNDECIDED) or name.endswith("_like"):
            return found
        if self.decided == len(self.point.decisions):
            if self.point.drawn and (ranked or name in CHOOSING[:4]):
                other = func(
                    noise(x.shape, self.decided), *args[1:], **{n: v for n, v in kwargs.items() if n != "input"}
                )
                chosen = other[1] if ranked else other
            self.point.decisions.append(chosen.clone())
        known = self.point.decisions[self.decided]
        self.decided += 1
        if name in CHOOSING and x.requires_grad:
            self.pieces[f"decision {self.decided}"] = x
        if known.shape != chosen.shape:
            return found
        if not ranked:
            return known
        named = args[(1 if "topk" not in name else 2) :]
        dim = kwargs.get("dim", named[0] if named else -1)
        flat = known.ndim < x.ndim
        values = x.gather(dim, known.unsqueeze(dim) if flat else known)
        return type(found)((values.squeeze(dim) if flat else values, known))


def noise(shape: Sequence[int], seed: int = 3) -> Tensor:
    """Standard normal numbers that depend on shape and seed alone; also inside `torch.vmap`."""
    with torch._C._DisableFuncTorch():
        return torch.randn(tuple(shape), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _grouped(a: Tensor, b: Tensor, offs: Tensor | None = None, bias: Any = None, out_dtype: Any = None) -> Tensor:
    """A grouped product of rows and matrices, which torch has in single precision only."""
    if offs is None or a.ndim != 2 or b.ndim != 3:
        raise ValueError(f"expected grouped_mm(rows, matrices, offs=ends), got shapes {a.shape} and {b.shape}")
    starts = [0, *offs.tolist()]
    parts = [a[start:end] @ matrix for start, end, matrix in zip(starts, starts[1:], b, strict=False)]
    return torch.cat([*parts, a.new_zeros(len(a) - starts[-1], b.shape[-1])])


def _double(value: Any) -> Any:
    """Every floating dtype that is asked for is float64: coarser ones round the codes away."""
    return torch.float64 if isinstance(value, torch.dtype) and value.is_floating_point else value


# -- statistics that do not move ---------------------------------------------------------------------------------------


Noise = Callable[[Sequence[int]], Tensor]


def _frozen(draw: Noise, x: Tensor, weight: Tensor | None, bias: Tensor | None, axes: list[int]) -> Tensor:
    """A normaliser whose statistics do not move, at a generic point: (x + something) * weight + bias."""
    shape = [x.shape[d] if d in axes else 1 for d in range(x.ndim)]
    y = x + draw(x.shape[1:])  # the same for all examples, of which there may be fewer
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def _last_axes(
    draw: Noise, input: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: Any = None
) -> Tensor:
    return _frozen(draw, input, weight, bias, list(range(input.ndim - len(normalized_shape), input.ndim)))


def _rms_norm(draw: Noise, input: Tensor, normalized_shape: Any, weight: Any = None, eps: Any = None) -> Tensor:
    return _last_axes(draw, input, normalized_shape, weight)


def _group_norm(
    draw: Noise, input: Tensor, num_groups: int, weight: Any = None, bias: Any = None, eps: Any = None
) -> Tensor:
    return _frozen(draw, input, weight, bias, [1])


def _over_batch(
    draw: Noise, input: Tensor, mean: Any = None, var: Any = None, weight: Any = None, bias: Any = None, *_: Any,
    **named: Any,
) -> Tensor:  # fmt: skip
    return _frozen(draw, input, named.get("weight", weight), named.get("bias", bias), [1])


NORMALISING: dict[Any, Callable[..., Tensor]] = {  # normalisers, as they are where their statistics do not move
    F.layer_norm: _last_axes,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.batch_norm: _over_batch,
    F.instance_norm: _over_batch,
}
FROZEN: dict[Any, Callable[..., Tensor]] = {}  # other functions with statistics: their modules add them
