"""Linear maps of a forward pass: linear and convolution calls, and products with a parameter that stand for a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from string import ascii_letters
from typing import Any, NamedTuple
from weakref import ref

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from pliant.levels import batched, depth, unwrapped

CONVOLUTIONS = {getattr(F, f"conv{t}{d}d") for t in ("", "_transpose") for d in (1, 2, 3)}


def functions(*names: str) -> set[Callable[..., Any]]:
    """All functions and methods of torch of these names.

    >>> torch.add in functions("add"), Tensor.add_ in functions("add")
    (True, False)
    """
    return {getattr(place, name) for place in (torch, Tensor, torch.linalg) for name in names if hasattr(place, name)}


ADDING = functions("addmm", "addmm_", "baddbmm", "baddbmm_")
FLIPPED = functions("__rmatmul__")
MATRIX = functions("matmul", "__matmul__", "mm", "bmm") | FLIPPED | ADDING
PRODUCTS = MATRIX | {torch.einsum, torch.tensordot}
NAMED = ("input", "mat1", "batch1", "other", "mat2", "batch2")  # operands, in the order of their positions
SHIFTING = functions("add", "add_", "__add__", "__radd__", "__iadd__", "sub", "sub_", "__sub__", "__isub__")
RESHAPED = {Tensor.T.__get__, Tensor.mT.__get__} | functions(  # type: ignore[attr-defined]
    "t", "transpose", "swapaxes", "swapdims", "permute", "movedim", "view", "reshape", "squeeze", "unsqueeze",
    "flatten", "unflatten", "contiguous", "to", "type_as", "float", "double", "half", "bfloat16",
)  # fmt: skip


class Map(NamedTuple):
    """One linear map.

    Attributes:
        input: what it reads, its features along the last axis; channels of a convolution are along the second.
        weight: what multiplies it.
        bias: what is added, where something is.
        dim: the axis of the output along which units run: from the end, but 1 for a convolution.
        apply: the output, without the bias, that another weight would give.
        rows: a tensor of the weight's shape as `(units, incoming)`.
    """

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    dim: int
    apply: Callable[[Tensor], Tensor]
    rows: Callable[[Tensor], Tensor]


class Weights:
    """The parameters of a forward pass, and what is made of them alone on its way (their transposes, casts, products).

    Args:
        params: by name.

    >>> layer = torch.nn.Linear(2, 3)
    >>> weights = Weights(dict(layer.named_parameters()))
    >>> turned = layer.weight.T
    >>> weights.note(Tensor.T.__get__, (layer.weight,), {}, turned)
    >>> [t in weights for t in (layer.weight, turned, torch.ones(2, 3))], weights.name(turned)
    ([True, True, False], 'weight')
    """

    def __init__(self, params: Mapping[str, Tensor]):
        self.params, self.depth = params, depth()
        # by id: the tensor, and of which parameter it is a transpose or cast, and how; none where it is another thing
        self.known: dict[int, tuple[Tensor, tuple[str, Callable[[Tensor], Tensor]] | None]] = {
            id(p): (p, (name, _itself)) for name, p in params.items()
        }

    def __contains__(self, t: Tensor) -> bool:
        if id(t) in self.known:
            return True
        if not batched(t, self.depth):
            return False
        return _storage(t) in {_storage(p) for p in self.params.values()}  # it entered a torch.vmap inside the forward

    def name(self, t: Tensor) -> str | None:
        """The parameter that this is, or of which it is a transpose, a view or a cast."""
        found = self.known.get(id(t))
        return None if found is None or found[1] is None else found[1][0]

    def like(self, t: Tensor, other: Tensor) -> Tensor:
        """Another tensor of the parameter's shape, made into what `t` is."""
        found = self.known[id(t)][1]
        assert found is not None
        return found[1](other)

    def note(self, func: Callable, args: tuple, kwargs: dict[str, Any], result: Any) -> None:
        """Told of every call: what has no other tensors than known ones makes another one."""
        first = args[0] if args else None
        first = first[0] if isinstance(first, (list, tuple)) and first else first
        if id(first) not in self.known:
            return
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if not all(id(t) in self.known for t in tensors):
            return
        _, origin = self.known[id(first)]
        if origin is not None and func in RESHAPED and len(tensors) == 1:
            name, made = origin
            origin = name, lambda other: func(made(other), *args[1:], **kwargs)
        else:
            origin = None
        for t in result if isinstance(result, (list, tuple)) else (result,):
            if isinstance(t, Tensor):
                self.known.setdefault(id(t), (t, origin))


class Layered:
    """Which tensors of a forward pass a layer has a part in: what comes of its output, or of a matrix of parameters.

    Inputs, buffers and what is made of them alone (positions, say) have none. Of what comes from where no call is seen
    (out of a `torch.vmap`, or a script), nothing is known.

    >>> x, layered = torch.ones(2, 2), Layered(Weights({"w": torch.ones(2, 2)}))
    >>> layered.given(x)
    >>> layered.note((x,), {}, y := x + 1, False)
    >>> layered.note((y,), {}, z := y @ y, True)
    >>> [layered(t) for t in (x, y, z, torch.ones(1))]
    [False, False, True, None]
    """

    def __init__(self, weights: Weights):
        self.weights = weights
        self.known: dict[int, tuple[ref[Tensor], bool]] = {}

    def __call__(self, t: Tensor) -> bool | None:
        itself, layered = self.known.get(id(t), (None, None))
        if itself is not None and itself() is t:
            return layered
        return t.ndim > 1 if t in self.weights else None

    def given(self, tree: Any) -> None:
        """Told of what no layer has a part in."""
        self._know(tree_leaves(tree), False)

    def note(self, args: tuple, kwargs: dict[str, Any], result: Any, is_map: bool) -> None:
        """Told of every call, and whether it is a linear map."""
        parts = [True] if is_map else [self(t) for t in _tensors((*args, *kwargs.values()))]
        if any(parts):
            self._know(_tensors((result,)), True)
        elif None not in parts:
            self._know(_tensors((result,)), False)

    def _know(self, tensors: Iterable[Any], layered: bool) -> None:
        for t in tensors:
            if isinstance(t, Tensor):
                self.known[id(t)] = ref(t), layered


def linear_map(func: Callable, args: tuple, kwargs: dict[str, Any], weights: Weights) -> Map | None:
    """What a call of a torch function is as a linear map; None where it is none, or a product of two activations.

    >>> w = torch.ones(2, 3)
    >>> found = linear_map(torch.matmul, (torch.ones(5, 2), w), {}, Weights({"w": w}))
    >>> found.dim, found.rows(w).shape
    (-1, torch.Size([3, 2]))
    """
    if func is F.linear or func in CONVOLUTIONS:
        return _layer(func, args, kwargs)
    if func not in PRODUCTS:
        return None
    if func is torch.einsum:
        operands = args[1] if len(args) == 2 and isinstance(args[1], (list, tuple)) else args[1:]
        return _einsum(args[0], operands, weights) if isinstance(args[0], str) else None
    if func is torch.tensordot:
        dims = args[2] if len(args) > 2 else kwargs.get("dims", 2)
        return _einsum(_letters(*args[:2], dims), args[:2], weights) if len(args) > 1 else None
    operands = [*args, *(kwargs[name] for name in NAMED if name in kwargs)]
    c = operands.pop(0) if func in ADDING else None
    a, b = reversed(operands[:2]) if func in FLIPPED else operands[:2]
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or (a in weights) == (b in weights):
        return None
    bias = c if c is not None and c in weights else None
    scale = kwargs.get("alpha", 1)
    if b in weights:
        return Map(a, b, bias, -1, lambda w: _scaled(a @ w, scale), lambda w: _matrix(w.mT if w.ndim > 1 else w))
    x = b.mT if b.ndim > 1 else b
    dim = -2 if a.ndim > 1 and b.ndim > 1 else -1
    return Map(x, a, bias, dim, lambda w: _scaled(w @ b, scale), _matrix)


class Maps(TorchFunctionMode):
    """Sees the linear maps of a forward pass in order; a parameter that is added to what one returns is its bias.

    Attributes:
        weights: the parameters.
        found: each map and what it returned.

    >>> layer = torch.nn.Linear(2, 3)
    >>> with Maps(dict(layer.named_parameters())) as maps:
    ...     _ = torch.ones(5, 2) @ layer.weight.T + layer.bias
    >>> [(seen.dim, maps.weights.name(seen.bias)) for seen, _ in maps.found]
    [(-1, 'bias')]
    """

    def __init__(self, params: Mapping[str, Tensor]):
        super().__init__()
        self.weights = Weights(params)
        self.found: list[tuple[Map, Tensor]] = []

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if (seen := linear_map(func, args, kwargs, self.weights)) is not None:
            self.found.append((seen, result))
            return result
        self.weights.note(func, args, kwargs, result)
        if func in SHIFTING and self.found and self.found[-1][0].bias is None:
            seen, y = self.found[-1]
            moving = [t for t in args[:2] if isinstance(t, Tensor) and (t is y or t._base is y)]
            added = [t for t in args[:2] if isinstance(t, Tensor) and t in self.weights]
            if moving and added:
                self.found[-1] = seen._replace(bias=added[0]), y
        return result


def _layer(func: Callable, args: tuple, kwargs: dict[str, Any]) -> Map:
    read = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **kwargs}
    x, weight, bias, rest = read.pop("input"), read.pop("weight"), read.pop("bias", None), args[3:]

    def apply(other: Tensor) -> Tensor:
        return func(x, other, None, *rest, **read)

    def rows(tensor: Tensor) -> Tensor:
        if "transpose" not in func.__name__:
            return tensor.flatten(1)
        groups = rest[3] if len(rest) > 3 else read.get("groups", 1)
        return tensor.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flatten(1)

    return Map(x, weight, bias, -1 if func is F.linear else 1, apply, rows)


def _einsum(equation: str, operands: Iterable[Tensor], weights: Weights) -> Map | None:
    operands = list(operands)
    others = [i for i, t in enumerate(operands) if t not in weights]
    if len(others) != 1 or len(operands) < 2:
        return None
    terms, out = _terms(equation, operands)
    x, mine = operands[others[0]], terms[others[0]]
    theirs = "".join(term for i, term in enumerate(terms) if i != others[0])
    summed = [letter for letter in mine if letter in theirs and letter not in out]
    if not summed:  # it scales
        return None
    units = [place for place, letter in enumerate(out) if letter not in mine]
    units = units or [place for place, letter in enumerate(out) if letter in theirs]  # a weight each, as of a head
    features = x.permute([mine.index(n) for n in mine if n not in summed] + [mine.index(n) for n in summed])
    own = next(i for i in range(len(operands)) if i != others[0])
    letters = terms[own]
    order = [i for i, n in enumerate(letters) if n not in summed] + [i for i, n in enumerate(letters) if n in summed]
    num = sum(n in summed for n in letters)

    def apply(other: Tensor) -> Tensor:
        return torch.einsum(equation, *operands[:own], other, *operands[own + 1 :])

    def rows(tensor: Tensor) -> Tensor:
        turned = tensor.permute(order)
        return turned.reshape(turned.shape[: turned.ndim - num].numel(), -1)

    dim = units[-1] - len(out) if units else -1
    return Map(features.flatten(-len(summed)), operands[own], None, dim, apply, rows)


def _terms(equation: str, operands: list[Tensor]) -> tuple[list[str], str]:
    """The letters of each operand and of the result, with letters of their own for `...`."""
    left, arrow, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    spare = [letter for letter in ascii_letters if letter not in equation]
    sizes = [t.ndim - len(term.replace("...", "")) for t, term in zip(operands, terms, strict=True)]  # of the dots
    most = max(sizes)
    if not arrow:
        once = sorted(letter for letter in set(left) - set(",.") if left.count(letter) == 1)
        out = ("..." if "..." in left else "") + "".join(once)

    def expanded(term: str, size: int) -> str:
        return term.replace("...", "".join(spare[most - size : most]))

    return [expanded(term, size) for term, size in zip(terms, sizes, strict=True)], expanded(out, most)


def _letters(a: Tensor, b: Tensor, dims: Any) -> str:
    """A `torch.tensordot` as an `einsum`."""
    ours, theirs = (range(a.ndim - dims, a.ndim), range(dims)) if isinstance(dims, int) else dims
    one, other = list(ascii_letters[: a.ndim]), list(ascii_letters[a.ndim : a.ndim + b.ndim])
    for i, j in zip(ours, theirs, strict=True):
        other[j] = one[i]
    out = [n for n in one if n not in other] + [n for n in other if n not in one]
    return f"{''.join(one)},{''.join(other)}->{''.join(out)}"


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among some values and in the lists among them: what `tree_leaves` finds, at a fifth of its time."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _matrix(t: Tensor) -> Tensor:
    return t.flatten(0, -2) if t.ndim > 1 else t[None]


def _itself(t: Tensor) -> Tensor:
    return t


def _scaled(t: Tensor, scale: float) -> Tensor:
    return t if scale == 1 else scale * t


def _storage(t: Tensor) -> int:
    return unwrapped(t).untyped_storage().data_ptr()
