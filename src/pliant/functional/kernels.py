"""How examples move each other: gradients of one example at a time, their inner products, and what those say.

Inner products and everything made of them are float64: squares of float32 gradients lose what the small ones say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vjp, vmap
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from pliant.functional.spectra import signs

Params = dict[str, Tensor]
AT_ONCE = 1 << 24  # numbers in the gradients of several sums of outputs
LOOKING = {Tensor.dim, Tensor.size, Tensor.numel, Tensor.is_floating_point} | {
    getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "requires_grad")
}
IN_CACHE = 1 << 13  # numbers of one example's gradient that are multiplied at once


def per_example_gradients(function: Callable[..., Tensor], params: Params, *examples: Any) -> Params:
    """The gradient of `function(params, *example)` at each example, by parameter: `(examples, *shape)`.

    Args:
        function: of the parameters and one example (without a leading axis); returns a scalar.
        params: what to differentiate with respect to.
        examples: tensors, or trees of them, with a leading axis of examples.

    >>> w = {"w": torch.tensor([1.0, 2.0])}
    >>> per_example_gradients(lambda p, x: (p["w"] * x).sum() ** 2, w, torch.eye(2))["w"]
    tensor([[2., 0.],
            [0., 4.]])
    """
    axes = tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, examples)
    return vmap(grad(function), in_dims=(None, *axes))(params, *examples)


def gram(gradients: Params) -> Tensor:
    """Inner products of per-example gradients over all parameters, `(examples, examples)`, float64.

    >>> gram({"w": torch.tensor([[1.0, 0.0], [2.0, 1.0]]), "b": torch.tensor([1.0, -1.0])})
    tensor([[2., 1.],
            [1., 6.]], dtype=torch.float64)
    """
    rows = (part.double() for g in gradients.values() for part in g.reshape(len(g), -1).split(IN_CACHE, 1))
    return torch.stack([row @ row.mT for row in rows]).sum(0)


def gradient_gram(
    function: Callable[..., Tensor], params: Params, *examples: Any, outer: frozenset[str] | None = None
) -> Tensor:
    """`gram` of `per_example_gradients`, without holding the gradients of weights that are outer products.

    A linear layer y = W a + b has the gradient d a^T at one example, d being that of y, so that two of them have the
    inner product (d_i . d_j) (a_i . a_j): n (in + out) numbers are held in place of n in out. `outer` names these
    weights; by default, those that `outer_products` finds. The other arguments are those of `per_example_gradients`.

    >>> w, x = {"w": torch.tensor([[2.0, 1.0]])}, torch.tensor([[1.0, 0.0], [3.0, 1.0]])
    >>> gradient_gram(lambda p, x: F.linear(x, p["w"]).sum(), w, x)
    tensor([[ 1.,  3.],
            [ 3., 10.]], dtype=torch.float64)
    """
    outer = outer_products(function, params, *examples) if outer is None else outer
    weights = {name: params[name] for name in params if name in outer}
    rest = {name: p for name, p in params.items() if name not in outer}

    def with_inputs(rest: Params, added: Params, *example: Any) -> tuple[Tensor, Params]:
        with _Rows(weights, added) as seen:
            return function(rest | weights, *example), seen.inputs

    axes = tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, examples)
    gradients = vmap(grad(with_inputs, argnums=(0, 1), has_aux=True), in_dims=(None, None, *axes))
    zeros = {name: weight.new_zeros(len(weight)) for name, weight in weights.items()}
    (held, of_outputs), inputs = gradients(rest, zeros, *examples)
    parts = [gram({name: of_outputs[name]}) * gram({name: inputs[name]}) for name in weights]
    return torch.stack([gram(held), *parts] if rest else parts).sum(0)


def outer_products(function: Callable[..., Tensor], params: Params, *examples: Any) -> frozenset[str]:
    """Names of the weights whose gradient at one example is an outer product, from a forward pass.

    These enter one call of `torch.nn.functional.linear` on one row, and nothing else.

    >>> def f(p, x):
    ...     return F.linear(F.linear(x, p["v"]), p["w"] * p["scale"]).sum()
    >>> params = {"v": torch.ones(3, 2), "w": torch.ones(1, 3), "scale": torch.ones(1, 1)}
    >>> sorted(outer_products(f, params, torch.ones(5, 2)))
    ['v']
    """
    axes = tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, examples)
    seen = _Rows({name: p for name, p in params.items() if p.ndim == 2}, {})

    def forward(*example: Any) -> Tensor:
        with seen:
            return function(params, *example)

    with torch.no_grad():
        vmap(forward, in_dims=axes)(*examples)
    return frozenset(seen.inputs.keys() - seen.others)


class _Rows(TorchFunctionMode):
    """Keeps the input of the linear call that each weight is in, and adds to its output.

    Attributes:
        inputs: by weight, `(in,)`.
        others: weights that enter a linear call on several rows, a second one, or anything else.
    """

    def __init__(self, weights: Params, added: Mapping[str, Tensor]):
        super().__init__()
        self.names = {id(weight): name for name, weight in weights.items()}
        self.added = added
        self.inputs: Params = {}
        self.others: set[str] = set()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        weight = (*args[1:], kwargs.get("weight"))[0] if func is F.linear else None
        for leaf in () if func in LOOKING else tree_leaves((args, kwargs)):
            if (name := self.names.get(id(leaf))) is None:
                continue
            if name in self.inputs or leaf is not weight or args[0].numel() != leaf.shape[-1]:
                self.others.add(name)
                continue
            self.inputs[name] = args[0].flatten()
            if name in self.added:
                found = found + self.added[name].view_as(found)
        return found


def ntk(function: Callable[..., Tensor], params: Params, x: Any, num_outputs: int) -> tuple[Tensor, Tensor]:
    """The empirical neural tangent kernel of a network with several outputs, as two `(examples, examples)` matrices.

    The kernel of the sum of outputs, <grad sum_c f_c(x_i), grad sum_c f_c(x_j)>, and the trace kernel,
    sum_c <grad f_c(x_i), grad f_c(x_j)>; they are one and the same for one output. One output is differentiated at a
    time, so that at most examples x parameters numbers are held, not outputs times as many; fewer where
    `gradient_gram` does without.

    Args:
        function: of the parameters and one example; returns its outputs, `(num_outputs,)`.
        params: what to differentiate with respect to.
        x: inputs with a leading axis of examples, or a tree of them.
        num_outputs: how many there are.

    Source: the kernel as in Lyle et al. 2024, gradients of outputs and not normalised. Deviation: the paper does not
    say what it does with several outputs.

    >>> def f(p, x):
    ...     return p["w"] @ x
    >>> total, trace = ntk(f, {"w": torch.zeros(2, 1)}, torch.tensor([[1.0], [3.0]]), num_outputs=2)
    >>> total.equal(trace), trace.tolist()
    (True, [[2.0, 6.0], [6.0, 18.0]])
    """

    outer = outer_products(function, params, x)

    def kernel(scalar: Callable[[Tensor], Tensor]) -> Tensor:
        return gradient_gram(lambda p, example: scalar(function(p, example)), params, x, outer=outer)

    total = kernel(torch.sum)
    if num_outputs == 1:
        return total, total
    trace = torch.zeros_like(total)
    for c in range(num_outputs):
        trace = trace + kernel(lambda outputs, c=c: outputs[c])
    return total, trace


def sampled_ntk(
    function: Callable[..., Tensor], params: Params, x: Any, num_outputs: int, num_sums: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """`ntk` of a network with very many outputs: the kernel of their sum, an estimate of the trace kernel, its error.

    The trace kernel is the mean of <grad v.f(x_i), grad v.f(x_j)> over random signs v, here over `num_sums` of them.
    The error is the standard error of that mean, in Frobenius norm, as a share of its size. Arguments as in `ntk`;
    several sums are differentiated at once where their gradients are small.

    >>> def f(p, x):
    ...     return p["w"] * x
    >>> _, trace, error = sampled_ntk(f, {"w": torch.zeros(500)}, torch.tensor([[1.0], [3.0]]), 500, num_sums=2)
    >>> trace.tolist(), error.item()  # each output has a parameter of its own, so that all sums agree
    ([[500.0, 1500.0], [1500.0, 4500.0]], 0.0)
    """
    device = next(iter(params.values())).device

    def gradients(sums: Tensor, example: Any) -> Params:
        output, pull = vjp(lambda p: function(p, example), params)[:2]
        return vmap(lambda v: pull(v)[0])(sums.to(output.dtype))

    axes = tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, x)
    total = gram(per_example_gradients(lambda p, example: function(p, example).sum(), params, x))
    mean, square = torch.zeros_like(total), torch.zeros_like(total[0, 0])
    numbers = len(total) * sum(p.numel() for p in params.values())
    for some in signs(num_sums, num_outputs, seed).to(device).split(max(1, AT_ONCE // numbers)):
        each = vmap(gram, in_dims=1)(vmap(gradients, in_dims=(None, axes))(some, x))
        mean, square = mean + each.sum(0) / num_sums, square + each.square().sum() / num_sums
    size = mean.square().sum()
    spread = (square - size).clamp(min=0) / (num_sums - 1)
    return total, mean, (spread / torch.where(size == 0, 1.0, size)).sqrt()


def cosines(kernel: Tensor) -> Tensor:
    """Inner products as cosines: K_ij / sqrt(K_ii K_jj); 0 in the row and column of a zero gradient.

    >>> cosines(torch.tensor([[4.0, -3.0, 0.0], [-3.0, 9.0, 0.0], [0.0, 0.0, 0.0]])).tolist()
    [[1.0, -0.5, 0.0], [-0.5, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    length = kernel.diagonal().clamp(min=0).sqrt()
    length = torch.where(length == 0, torch.inf, length)
    return (kernel / length) / length[:, None]


def off_diagonal(kernel: Tensor) -> Tensor:
    """The matrix with zeros on its diagonal: what one example's gradient does to the others.

    >>> off_diagonal(torch.tensor([[1.0, 2.0], [2.0, 5.0]])).tolist()
    [[0.0, 2.0], [2.0, 0.0]]
    """
    return kernel - torch.diag(kernel.diagonal())


def mean_off_diagonal(values: Tensor) -> Tensor:
    """The mean of all entries but those on the diagonal; 0 for a single example.

    >>> mean_off_diagonal(torch.tensor([[9.0, 1.0], [3.0, 9.0]]))
    tensor(2.)
    """
    n = len(values)
    return off_diagonal(values).sum() / max(1, n * (n - 1))


def condition_number(s: Tensor, eps: float) -> Tensor:
    """The largest singular value over the smallest, at most 1 / eps: s_1 / max(s_n, eps s_1); 0 for zeros.

    >>> condition_number(torch.tensor([4.0, 1.0]), eps=1e-5), condition_number(torch.tensor([1.0, 0.0]), eps=0.01)
    (tensor(4.), tensor(100.))
    """
    top = s.amax()
    return top / torch.where(top == 0, 1.0, torch.maximum(s.amin(), eps * top))


def top_share(kernel: Tensor, s: Tensor) -> Tensor:
    """The largest singular value over the trace: 1 for rank one, 1/n for n equal ones; 0 for zeros.

    `s` are the singular values of `kernel`.

    >>> top_share(torch.eye(4), torch.ones(4))
    tensor(0.2500)
    """
    trace = kernel.trace()
    return s.amax() / torch.where(trace == 0, 1.0, trace)


def uneven(kernel: Tensor) -> Tensor:
    """How far a kernel is from a diagonal plus a constant: min_{d, c} |K - diag(d) - c 11^T|_F / |K|_F, from 0 to 1.

    The diagonal takes up d altogether, so c is the mean of the other entries. At 0, an update moves every other input
    by the same. A kernel of zeros is at 0.

    >>> uneven(torch.tensor([[9.0, 1.0], [1.0, 4.0]]))
    tensor(0.)
    >>> uneven(torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    tensor(0.8165)
    """
    scale = kernel.abs().amax()
    kernel = kernel / torch.where(scale == 0, 1.0, scale)
    rest = off_diagonal(kernel - mean_off_diagonal(kernel))
    return rest.square().sum().sqrt() / kernel.square().sum().sqrt().clamp(min=1.0)


def cluster_order(cosine: Tensor, num_clusters: int = 10, seed: int = 0) -> Tensor:
    """An order of the examples that shows blocks: k-means on the rows of the matrix, larger clusters first.

    `cosine[order][:, order]` is what to plot. Examples keep their order inside a cluster, and there are at most as many
    clusters as examples. Not for `vmap`: it needs scikit-learn, which it imports when called.

    Source: Lyle et al. 2023, with 10 clusters. Deviation: the paper does not say what is clustered; rows are ours.

    >>> alike = torch.tensor([0, 1, 0, 1, 1])
    >>> cluster_order((alike == alike[:, None]).float(), num_clusters=2).tolist()
    [1, 3, 4, 0, 2]
    """
    import warnings

    import numpy as np
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    rows = cosine.detach().cpu().double().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
        labels = KMeans(min(num_clusters, len(rows)), random_state=seed).fit_predict(rows)
    sizes = np.bincount(labels)
    first = np.array([np.flatnonzero(labels == label)[0] if size else 0 for label, size in enumerate(sizes)])
    return torch.from_numpy(np.lexsort((first[labels], -sizes[labels])))
