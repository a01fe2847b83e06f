"""`linearized` on small inputs: a tanh loses its bend without any training, a ReLU keeps it."""

import pytest
import torch

from pliant.diagnostics import LinearizedUnits, Observation
from pliant.network import Site, Trace


@pytest.mark.parametrize(("size", "linear"), [(0.1, True), (0.2, True), (0.3, False), (1.0, False)])
def test_small_inputs_make_a_tanh_linear_and_no_relu(size: float, linear: bool) -> None:
    """1 - R^2 of a tanh of normal inputs is 2/3 of the fourth power of their size, in the limit of small ones."""
    pre = size * torch.randn(4096, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = {}
    for name, post, slope in (("tanh", pre.tanh(), 1 - pre.tanh() ** 2), ("relu", pre.relu(), (pre > 0).double())):
        trace = Trace(post, post, {"act": Site(pre, post, slope)})
        found[name] = bool(LinearizedUnits().measure(Observation({}, trace=trace))["linearized"])
    assert found == {"tanh": linear, "relu": False}
