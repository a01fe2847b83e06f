"""How sharply the loss surface bends around a network."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from pliant.diagnostics._examples import trained
from pliant.diagnostics._shared import given, widened
from pliant.diagnostics.base import Diagnostic, Observation
from pliant.functional import curvature, spectra
from pliant.modules import unpadded
from pliant.network import Params

Matrix = Literal["perturbation", "expected_perturbation", "loss", "gauss_newton"]


@dataclass(frozen=True)
class Curvature(Diagnostic):
    """What the measurements of curvature share: which matrix they are `of`.

    - `"perturbation"`: the Hessian of the regression to the current outputs plus noise, drawn by `seed`: the network
      by itself, whatever it is trained on;
    - `"expected_perturbation"`: its mean over the noise, (2/n) J^T J, without negative eigenvalues and cheaper;
    - `"loss"`: the Hessian of the training loss on the batch; `"gauss_newton"`: that without the network's curvature.

    With respect to the trained parameters. The last two need `y` and `loss`, and their names begin with `loss_` and
    `gauss_newton_`.
    See `pliant.functional.curvature`. Raises `ValueError` for another matrix.
    """

    of: Matrix = "perturbation"
    seed: int = 0

    needs: ClassVar[frozenset[str]] = frozenset({"network", "x"})
    cost: ClassVar[str] = "full"
    reference: ClassVar[str] = "lyle2023"

    def __post_init__(self):
        if self.of not in get_args(Matrix):
            raise ValueError(f"expected of= one of {', '.join(map(repr, get_args(Matrix)))}, got {self.of!r}")
        if self.of in ("loss", "gauss_newton"):
            object.__setattr__(self, "needs", self.needs | {"y", "loss"})

    def operator(self, seen: Observation) -> spectra.Operator:
        """The matrix, by its products with vectors."""
        seen = widened(seen)
        network, x, params = given(seen.network, "network"), given(seen.x, "x"), trained(seen)

        def forward(params: Params) -> Any:
            return network(seen.params | params, x)

        if self.of in ("perturbation", "expected_perturbation"):
            antithetic = self.of == "expected_perturbation"
            outputs = forward if seen.mask is None else lambda p: unpadded(forward(p), seen.mask)
            return curvature.perturbation_hessian(outputs, params, self.seed, antithetic)
        y, loss = given(seen.y, "y"), given(seen.loss, "loss")
        if self.of == "loss":
            return curvature.hessian(lambda params: loss(forward(params), y), params)
        return curvature.gauss_newton(forward, lambda output: loss(output, y), params)

    def named(self, numbers: dict[str, Tensor]) -> dict[str, Tensor]:
        """The numbers under names that tell the matrices apart."""
        return {name if self.of == "perturbation" else f"{self.of}_{name}": value for name, value in numbers.items()}


@dataclass(frozen=True)
class Sharpness(Curvature):
    """The largest eigenvalue of the Hessian: steps of gradient descent above 2 / sharpness overshoot.

    `sharpness`, and `sharpness_residual` as a share of it: an eigenvalue lies within that distance. By `steps` products
    of Lanczos from a random start (`seed`); a residual above 0.01 asks for more.

    Fields: `of`, the matrix (see `Curvature`): "perturbation" (default), "expected_perturbation", "loss" or
    "gauss_newton"; `seed`, of the noise and the start; `steps`.

    >>> import torch
    >>> from pliant.network import Network
    >>> net = Network(torch.nn.Linear(2, 1, bias=False))
    >>> seen = Observation(net.params(), network=net, x=torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    >>> Sharpness().measure(seen)["sharpness"].round(decimals=3)  # 2 / 2 samples times the larger of 1 and 4
    tensor(4.)
    """

    steps: int = 30

    healthy: ClassVar[str] = "sharpness 14 to 19"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        operator = self.operator(seen)
        ritz = spectra.lanczos(operator, spectra.rademacher(operator, 1, self.seed)[0], self.steps)
        top, residual = ritz.values[-1], ritz.residuals[-1]
        return self.named({"sharpness": top, "sharpness_residual": _share(residual, top)})


@dataclass(frozen=True)
class HessianTrace(Curvature):
    """The sum of the eigenvalues of the Hessian, by 3 `num_vectors` products (Hutch++).

    `hessian_trace`, and `hessian_trace_error`, its standard error. Fields `of` and `seed` as in `Sharpness`.

    >>> import torch
    >>> from pliant.network import Network
    >>> net = Network(torch.nn.Linear(2, 1, bias=False))
    >>> seen = Observation(net.params(), network=net, x=torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    >>> HessianTrace().measure(seen)["hessian_trace"].round(decimals=3)
    tensor(5.)
    """

    num_vectors: int = 10

    reference: ClassVar[str] = "meyer2021"
    healthy: ClassVar[str] = "hessian_trace 670 to 960"

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        value, error = spectra.trace(self.operator(seen), self.num_vectors, self.seed)
        return self.named({"hessian_trace": value, "hessian_trace_error": error})


@dataclass(frozen=True)
class HessianSpectrum(Curvature):
    """What the whole spectrum of the Hessian looks like, from `num_starts` runs of `steps` products of Lanczos.

    `hessian_largest` and `hessian_smallest` eigenvalue, `hessian_residual` (the larger of theirs, as a share of the
    largest size) and `hessian_conditioning`, largest over smallest; `hessian_near_zero`, the share of eigenvalues below
    1 % of the largest size. Fields `of` and `seed` as in `Sharpness`; for a plot of the density see
    `pliant.functional.spectra.spectral_density`.

    Deviation: with a dense decomposition `hessian_near_zero` is exact, here it is an estimate. At 80 steps, on five
    fresh networks of about 1,000 parameters and 64 samples, it is up to 0.07 (26 % of its value) too low or 0.04 (15 %)
    too high, for matrices without negative eigenvalues within 0.02; at 40 steps up to 0.08 (33 %) too high.

    >>> import torch
    >>> from pliant.network import Network
    >>> net = Network(torch.nn.Linear(2, 1, bias=False))
    >>> seen = Observation(net.params(), network=net, x=torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    >>> found = HessianSpectrum().measure(seen)
    >>> found["hessian_conditioning"].round(decimals=3), found["hessian_near_zero"]
    (tensor(4.), tensor(0.))
    """

    steps: int = 80
    num_starts: int = 3

    reference: ClassVar[str] = "ghorbani2019"
    healthy: ClassVar[str] = (
        "hessian_largest 14 to 19, hessian_smallest -6.9 to -6.0, hessian_conditioning -2.8 to -2.2, "
        "hessian_near_zero 0.92 to 0.93"
    )

    def measure(self, seen: Observation) -> dict[str, Tensor]:
        ritz = spectra.quadrature(self.operator(seen), self.steps, self.num_starts, self.seed)
        largest, at_top = ritz.values[:, -1].max(0)
        smallest, at_bottom = ritz.values[:, 0].min(0)
        residuals = ritz.residuals[:, -1].gather(0, at_top), ritz.residuals[:, 0].gather(0, at_bottom)
        return self.named(
            {
                "hessian_largest": largest,
                "hessian_smallest": smallest,
                "hessian_residual": _share(torch.maximum(*residuals), torch.maximum(largest, -smallest)),
                "hessian_conditioning": spectra.conditioning(largest, smallest),
                "hessian_near_zero": spectra.share_near_zero(ritz),
            }
        )


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """In units of the whole's size; 0 for a whole of 0."""
    return torch.where(whole == 0, 0.0, part / torch.where(whole == 0, 1.0, whole.abs()))
