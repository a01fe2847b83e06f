"""What became of single hidden units, from the `(samples, units)` matrices of one nonlinearity.

`pre` is what enters the nonlinearity, `post` what leaves it, `slope` its derivative at `pre`. The verdicts are boolean,
`(units,)`, and about the samples at hand: of too few, healthy units look linear (two points always lie on a line).
Numbers of half precision are taken in float32. Of numbers that are not finite no verdict says anything.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pliant.functional.precision import wide


def dead(slope: Tensor, tolerance: float = 0.0) -> Tensor:
    """Units whose nonlinearity passes no gradient on any sample: |slope| <= tolerance everywhere.

    For a ReLU at tolerance 0: never active; a preactivation of exactly 0 counts as off, as torch's derivative there is
    0. A leaky ReLU is never dead, a tanh is when all its slopes round to 0. Neither paper gives a tolerance. Of no
    samples at all, no unit is dead.

    Source: Lyle et al. 2023, 2024, in words.

    >>> dead(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    tensor([ True, False])
    """
    return (wide(slope).abs() <= tolerance).all(0) & (len(slope) > 0)


def silent(post: Tensor, tolerance: float = 1e-7, share: float = 0.95) -> Tensor:
    """Units that are 0, up to `tolerance`, on more than a `share` of samples: |h_u(x)| < tolerance.

    One more thing that is called dead; a unit that fires on few inputs counts, and a dead sigmoid does not.

    Source: the code of Joudaki et al. 2025, with these thresholds.

    >>> silent(torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    tensor([ True, False])
    """
    return (wide(post).abs() < tolerance).sum(0) > share * len(post)


def constant(post: Tensor, tolerance: float = 1e-3) -> Tensor:
    """Units whose output hardly varies over the samples: std_x[h_u] < tolerance; dead ones are among them.

    Source: the code of Moalla et al. 2024, which counts dead tanh units so. In absolute terms: a layer of small
    activations counts, alive as it may be.

    >>> constant(torch.tensor([[0.5, 0.0], [0.5, 1.0]]))
    tensor([ True, False])
    """
    deviation, size = centred(post)
    return size * deviation.square().mean(0).sqrt() < tolerance


def dormancy(post: Tensor) -> Tensor:
    """The ReDo score of each unit: its mean size over the layer's, 1 for an average unit and 0 for a silent one.

    s_u = E_x |h_u(x)| / mean_k E_x |h_k(x)|; a layer that is silent altogether scores 0 everywhere.

    `post` is `(samples, units)` with space among the samples of a convolution, the result `(units,)`.
    Source: Sokar et al. 2023.

    >>> dormancy(torch.tensor([[0.0, 3.0], [0.0, -1.0]]))
    tensor([0., 2.])
    """
    size = wide(post).abs().mean(0)
    layer = size.mean()
    return size / torch.where(layer == 0, 1.0, layer)


def dormant(post: Tensor, tau: float) -> Tensor:
    """Units whose ReDo score is at most `tau` (0, 0.025 and 0.1 are in use); tau = 0 asks for exact silence.

    Source: Sokar et al. 2023.

    >>> dormant(torch.tensor([[0.01, 3.0], [0.0, 1.0]]), tau=0.025)
    tensor([ True, False])
    """
    return dormancy(post) <= tau


def active(post: Tensor) -> Tensor:
    """How often each unit is active, as a share of samples: E_x 1[h_u(x) > 0].

    Its mean over units is the fraction of active units (FAU). Source: Ma et al. 2024.

    >>> active(torch.tensor([[1.0, -1.0], [0.0, -2.0]]))
    tensor([0.5000, 0.0000])
    """
    return (post > 0).to(wide(post)).mean(0)


def duplicate(post: Tensor, cosine: float = 0.95) -> Tensor:
    """Units whose activations over the samples nearly point the same way as those of another: cosine > 0.95.

    Activations are not centred, so units that are always on with a large mean count; silent units never do.

    Source: Joudaki et al. 2025. Deviation: their code counts one unit of each group of clones less, as it asks for a
    clone among the units before; of five units of which two are clones it reads 0.20, this 0.40.

    >>> duplicate(torch.tensor([[1.0, 2.0, 0.0, 0.0], [2.0, 4.0, 1.0, 0.0]]))
    tensor([ True,  True, False, False])
    """
    post = wide(post)
    largest = post.abs().amax(0)
    h = post / torch.where(largest == 0, 1.0, largest)
    h = h / h.square().sum(0).sqrt().clamp(min=1.0)  # at least 1 already, unless silent
    alike = h.mT @ h > cosine
    return alike.logical_and(~torch.eye(alike.shape[0], dtype=torch.bool, device=post.device)).any(0)


def gradient_dormancy(rows: Tensor) -> Tensor:
    """The ReDo score of each unit with gradients in place of activations: its gradient's L2 norm over the layer's mean.

    s_u = |g_u|_2 / mean_k |g_k|_2, g_u the gradient of the loss with respect to the parameters that feed unit u. A
    layer without any gradient scores 0 everywhere.

    `rows` is `(units, incoming)`, the result `(units,)`. Source: Ji et al. 2024. Deviation: that a unit's gradients are
    those of its incoming weights and bias is our reading.

    >>> gradient_dormancy(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([2., 0.])
    """
    rows = wide(rows)
    largest = rows.abs().amax()
    size = (rows / torch.where(largest == 0, 1.0, largest)).square().sum(1).sqrt()
    return dormancy(size[None])


def gradient_saturated(post: Tensor, gradient: Tensor, tolerance: float = 1e-4, share: float = 0.99) -> Tensor:
    """Units through which hardly any of the loss flows: |dL/dh_u(x)| < tolerance E_x|h_u| on more than `share` of x.

    `gradient` is of the loss with respect to `post`, `(samples, units)` both. It scales with the loss: that of a mean
    over the batch shrinks as the batch grows. A silent unit is not counted, whatever its gradient.

    Source: Joudaki et al. 2025, their code, with these thresholds. Deviation: it divides the gradient by the size, and
    so counts a silent unit whose gradient is 0 (0.25 for one of four, where this reads 0): that one is dead.

    >>> gradient_saturated(torch.ones(2, 3), torch.tensor([[0.0, 0.0, 1.0], [1e-5, 1e-3, 1.0]]))
    tensor([ True, False, False])
    """
    flat = wide(gradient).abs() < tolerance * wide(post).abs().mean(0)
    return flat.sum(0) > share * len(flat)


def saturated(slope: Tensor, tolerance: float, share: float) -> Tensor:
    """Units that are flat on all but a small share of samples: |slope| > tolerance on at most `share` of them.

    Meant for bounded nonlinearities (tanh, sigmoid, hardtanh). Every unit that is dead at this tolerance is saturated:
    `share=0` is `dead` itself. On a ReLU it finds the units that rarely fire, which are sparse rather than saturated.

    Source: ours; the papers speak of saturated units without a formula.

    >>> x = torch.tensor([[9.0, 0.1], [-9.0, 0.2], [9.0, 9.0], [0.3, 9.0]])
    >>> saturated(1 - torch.tanh(x) ** 2, tolerance=1e-3, share=0.25)
    tensor([ True, False])
    """
    steep = ~(wide(slope).abs() <= tolerance)
    return steep.sum(0) / slope.shape[0] <= share


def linearized(pre: Tensor, post: Tensor, slope: Tensor, tolerance: float = 1e-3) -> Tensor:
    """Units that are affine on the data and alive: `affine_linear` and not `dead`.

    They pass signals and gradients perfectly and add no expressivity; counters of dead units do not see them.

    Source: Lyle et al. 2024, in words; there is no formula in the paper, so this one and its tolerance are ours.

    >>> pre = torch.tensor([[1.0, -1.0, 1.0], [2.0, -2.0, -1.0], [4.0, -4.0, 2.0]])
    >>> linearized(pre, pre.relu(), (pre > 0).float())
    tensor([ True, False, False])
    """
    return affine_linear(pre, post, tolerance) & ~dead(slope)


def affine_linear(pre: Tensor, post: Tensor, tolerance: float = 1e-3) -> Tensor:
    """Units whose output is an affine function of their input on the data, up to a share `tolerance` of its variance.

    1 - R^2 <= tolerance for the least-squares fit post = alpha pre + beta, and Var[post] > 1e-12 E[post^2]: a constant
    does not count, nor does a unit without samples. Made for any nonlinearity.

    Source: ours, as for `linearized`.

    >>> pre = torch.tensor([[1.0, 1.0], [2.0, -1.0], [3.0, 2.0]])
    >>> affine_linear(pre, pre.relu())
    tensor([ True, False])
    """
    a, _ = centred(pre)
    h, size = centred(post)
    steepness = (a * h).sum(0) / a.square().sum(0).clamp(min=1.0)  # at least 1 already, unless `pre` is constant
    unexplained = (h - steepness * a).square().sum(0)
    variance = h.square().sum(0)
    magnitude = (wide(post) / torch.where(size == 0, 1.0, size)).square().sum(0)
    varies = (size > 0) & (variance > 1e-12 * magnitude)
    return varies & (unexplained <= tolerance * variance)


def sign_linear(pre: Tensor, slope: Tensor, delta: float) -> Tensor:
    """Units that stay on one linear branch of their nonlinearity on all but a share `delta` of the samples.

    One side of 0 holds at least a share 1 - delta of `pre`, and there the slope is one and the same number, not 0: the
    positive side of a ReLU, either of a leaky ReLU. GELU and tanh have no such side, unless their slopes round to one.

    Source: ours, as for `linearized`; use a delta of 0 or 0.01.

    >>> pre = torch.tensor([[1.0, -1.0, 1.0], [2.0, -2.0, -1.0]])
    >>> sign_linear(pre, (pre > 0).float(), delta=0.0)
    tensor([ True, False, False])
    """

    return off_branch(pre, slope) <= delta


def off_branch(pre: Tensor, slope: Tensor) -> Tensor:
    """The share of samples beside the linear branch that a unit is on, infinite if it is on none: see `sign_linear`.

    >>> pre = torch.tensor([[1.0, -1.0, 1.0], [2.0, -2.0, -1.0]])
    >>> off_branch(pre, (pre > 0).float())
    tensor([0.0000,    inf, 0.5000])
    """
    above, below = pre > 0, pre < 0
    num_above, num_below = above.sum(0), below.sum(0)

    def beside(inside: Tensor, count: Tensor, others: Tensor) -> Tensor:
        there = slope * inside
        largest, smallest = there.amax(0), there.amin(0)
        value = torch.where(largest > 0, largest, smallest)  # the one slope, if there is one
        same = ((slope == value) & inside).sum(0) == count
        return torch.where(same & (value != 0), others / pre.shape[0], torch.inf)

    return torch.minimum(beside(above, num_above, num_below), beside(below, num_below, num_above))


def slope_linear(slope: Tensor, tolerance: float = 1e-2) -> Tensor:
    """Units whose slope hardly varies over the data: std_x[slope] <= tolerance and E_x[slope] > 0.

    The only one of the three definitions in absolute terms: a tanh whose slopes are all tiny, nearly dead, counts.

    Source: ours, as for `linearized`.

    >>> slope_linear(torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.5]]))
    tensor([ True, False, False])
    """
    slope = wide(slope)
    mean = slope.mean(0)
    return ((slope - mean).square().mean(0) <= tolerance**2) & (mean > 0)


def centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """`x` less its mean, in units of its largest deviation, and that deviation.

    The first sample goes first: in float32 a constant then becomes exactly 0, and a large mean costs no digits.
    """
    x = wide(x)
    x = x - x[:1]
    x = x - x.mean(0)
    size = x.abs().amax(0) if len(x) else torch.zeros_like(x.sum(0))
    return x / torch.where(size == 0, 1.0, size), size
