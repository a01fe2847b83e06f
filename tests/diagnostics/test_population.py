"""Every diagnostic through `Population.measure`: under vmap and no_grad, with inputs of each member's own."""

import pytest
import torch
from torch.nn import functional as F

from pliant.diagnostics import Observation
from pliant.nets import MLP, layer_norm
from pliant.network import Network
from pliant.optim import SGD
from pliant.population import Member, Population
from tests.diagnostics.test_contract import DIAGNOSTICS

MEASURED = [d for d in DIAGNOSTICS if "earlier" not in d.needs and type(d).__name__ != "TargetOffset"]


@pytest.mark.parametrize("size", [1, 3])
def test_members_equal_networks_measured_alone(size):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, 24, 5, generator=generator).double()
    y = torch.randint(3, (size, 24), generator=generator)
    network = Network(MLP(5, 3, (8, 6), norm=layer_norm).double(), example=x[0])
    population = Population(
        network, F.cross_entropy, [Member(s, SGD(lr=0.1)) for s in range(size)], dtype=torch.float64
    )
    state = population.init()
    population.step(state, x, y)
    update = {name: p * 0.01 for name, p in state.params.items()}
    together = population.measure(MEASURED, state, x, y, update)
    gradients = population.gradients(state, x, y)
    for i in range(size):
        params, initial, mine, moved = (
            {name: p[i] for name, p in tree.items()} for tree in (state.params, state.initial, gradients, update)
        )
        trace = network.trace(params, x[i])
        seen = Observation(params, initial, trace, mine, moved, None, network, x[i], y[i], F.cross_entropy)
        for diagnostic in MEASURED:
            for name, value in diagnostic.measure(seen).items():
                population_value = together[name][i].double()
                assert torch.allclose(population_value, value.double(), rtol=1e-8, atol=1e-10, equal_nan=True), name
