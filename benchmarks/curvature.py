"""What does a spectral density cost? Ratios to curvlinops' own, both in one run, interleaved.

    python benchmarks/curvature.py [--rounds 5] [--samples 2048] [--steps 30] [--threads 1]

curvlinops-for-pytorch wants an environment of its own: it brings a torchvision, which has to fit the build of torch.

The Hessian of the cross-entropy of 784-512-512-10, after a few steps of training, on one batch; one random start of so
many Lanczos steps each, so both are quadratures of one order. How far the top eigenvalue and the distribution of
eigenvalues are from those of a longer run says whether they are equally accurate. curvlinops finds the ends of the
spectrum by scipy's `eigsh` first, which we read off the same Lanczos run: the ratio is given with and without.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterable

import torch
from curvlinops import HessianLinearOperator, lanczos_approximate_spectrum
from curvlinops.papyan2020traces.spectrum import fast_lanczos
from torch import Tensor, nn
from torch.func import jvp
from torch.nn import functional as F

from pliant.functional.curvature import flat, gauss_newton, hessian, perturbation_hessian, unflat
from pliant.functional.spectra import Operator, Ritz, krylov, lanczos, quadrature, rademacher, spectral_density
from pliant.nets import MLP
from pliant.network import Network


def trained(samples: int, steps: int = 10) -> tuple[nn.Module, Tensor, Tensor]:
    """A network some steps into fitting random labels, and its batch."""
    torch.manual_seed(0)
    x, y = torch.randn(samples, 784), torch.randint(10, (samples,))
    model = MLP(784, 10, hidden=(512, 512))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, x, y


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def interleaved(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """The times of each function, one call of every one of them a round."""
    for function in functions.values():
        function()
    found: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            found[name].append(seconds(function))
    return found


def show(times: dict[str, list[float]], against: str) -> None:
    """Medians, and medians of the rounds' ratios: ours (the first) to each."""
    ours = next(iter(times.values()))
    print(f"\n{against:44}{'ms':>10}{'ours / it':>12}")
    for name, found in times.items():
        ratio = statistics.median(a / b for a, b in zip(ours, found, strict=True))
        print(f"{name:44}{1e3 * statistics.median(found):10.1f}{ratio:12.2f}")


def distance(a: Ritz, b: Ritz) -> float:
    """Wasserstein-1 distance of two distributions of eigenvalues, as a share of the second's width."""
    values = torch.cat([a.values.flatten(), b.values.flatten()]).double()
    weights = torch.cat([a.weights.flatten() / len(a.values), -b.weights.flatten() / len(b.values)]).double()
    order = values.argsort()
    area = (weights[order].cumsum(0)[:-1].abs() * values[order].diff()).sum()
    return (area / (b.values.max() - b.values.min())).item()


def theirs(operator: HessianLinearOperator, steps: int, num_starts: int) -> Ritz:
    runs: Iterable = (fast_lanczos(operator, steps) for _ in range(num_starts))
    values, weights = zip(*((values, vectors[0].square()) for values, vectors in runs), strict=True)
    return Ritz(torch.stack(values), torch.stack(weights), torch.zeros(num_starts, steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore")

    model, x, y = trained(given.samples)
    net = Network(model)
    params = net.params()
    other = HessianLinearOperator(model, nn.CrossEntropyLoss(), list(model.parameters()), [(x, y)])

    def objective(p: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(net(p, x), y)

    def ours() -> Operator:
        return hessian(objective, params)

    reference = quadrature(ours(), 2 * given.steps, 3, seed=1)
    low, high = reference.values.min().item(), reference.values.max().item()

    built = ours()
    v = rademacher(built, 1, 0)[0]
    tangent = unflat(v, params)
    leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
    gradient = torch.autograd.grad(objective(leaves), list(leaves.values()), create_graph=True)

    def plain(gradient: Iterable[Tensor], keep: bool) -> tuple[Tensor, ...]:
        return torch.autograd.grad(gradient, list(leaves.values()), list(tangent.values()), retain_graph=keep)

    def anew() -> tuple[Tensor, ...]:
        return plain(torch.autograd.grad(objective(leaves), list(leaves.values()), create_graph=True), keep=False)

    products = {
        "ours, graph kept": lambda: built.product(v),
        "torch.autograd, graph kept": lambda: plain(gradient, keep=True),
        "torch.autograd, anew": anew,
        "torch.func, forward over reverse, anew": lambda: jvp(torch.func.grad(objective), (params,), (tangent,)),
        "curvlinops": lambda: other @ v,
    }
    show(interleaved(products, 3 * given.rounds), "one Hessian-vector product")
    agree = (built.product(v) - other @ v).norm() / built.product(v).norm()
    print(f"ours and curvlinops' differ by {agree:.1e}")

    start = rademacher(built, 1, 0)[0]
    densities = {
        "ours": lambda: spectral_density(Ritz(*(f[None] for f in lanczos(ours(), start, given.steps)))),
        "curvlinops": lambda: lanczos_approximate_spectrum(other, given.steps),
        "curvlinops, told the ends of the spectrum": lambda: lanczos_approximate_spectrum(
            other, given.steps, boundaries=(low, high)
        ),
    }
    show(interleaved(densities, given.rounds), f"spectral density, {given.steps} steps, {built.size:,} parameters")

    print(f"\n{'against twice the steps from 3 starts':44}{'lambda_1':>12}{'lambda_d':>12}{'W1':>12}")
    found = {"ours": quadrature(built, given.steps, 3, seed=2), "curvlinops": theirs(other, given.steps, 3)}
    for name, ritz in found.items():
        off = [ritz.values[:, -1] / high - 1, ritz.values[:, 0] / low - 1]
        runs = [Ritz(*(f[i : i + 1] for f in ritz)) for i in range(3)]
        w1 = statistics.median(distance(run, reference) for run in runs)
        print(f"{name:44}{off[0].abs().median():12.1e}{off[1].abs().median():12.1e}{w1:12.1e}")

    whole = statistics.median(seconds(lambda: krylov(built, start, given.steps)) for _ in range(given.rounds))
    apart = statistics.median(
        seconds(lambda: [built.product(v) for _ in range(given.steps)]) for _ in range(given.rounds)
    )
    memory = given.steps * built.size * start.element_size() / 2**20
    print(f"\nre-orthogonalisation: {memory:.0f} MiB of basis, {100 * (1 - apart / whole):.0f} % of the time")

    kinds = {
        "perturbation": perturbation_hessian(lambda p: net(p, x), params),
        "its mean over the noise": perturbation_hessian(lambda p: net(p, x), params, antithetic=True),
        "loss": built,
        "Gauss-Newton": gauss_newton(lambda p: net(p, x), lambda out: F.cross_entropy(out, y), params),
        "(gradient of the loss)": Operator(
            lambda v: flat(torch.func.grad(objective)(params)), built.size, v.dtype, v.device
        ),
    }
    run = {name: (lambda operator=operator: operator.product(v)) for name, operator in kinds.items()}
    show(interleaved(run, 3 * given.rounds), "one product with each matrix")


if __name__ == "__main__":
    main()
