"""torch_geometric's graph networks: a node's output depends on its neighbours, so samples are not independent."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant import Inputs
from tests.extras.zoo.network import Net

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it says when it is imported
    from torch_geometric.nn.models import GAT, GCN


def graph() -> Inputs:
    edges = torch.randint(12, (2, 30))
    return Inputs((torch.randn(12, 5), edges), {})


class Nodes(nn.Module):
    """Encoded one by one, exchanging messages, decoded one by one."""

    def __init__(self, messages: nn.Module) -> None:
        super().__init__()
        self.encoder, self.messages, self.decoder = nn.Linear(5, 16), messages, nn.Linear(16, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.decoder(F.relu(self.messages(F.relu(self.encoder(x)), edges)))


def gcn() -> nn.Module:
    return Nodes(GCN(in_channels=16, hidden_channels=16, num_layers=2))


def gat() -> nn.Module:
    return Nodes(GAT(in_channels=16, hidden_channels=16, num_layers=2, heads=2))


NETWORKS = {"gcn": Net(gcn, graph), "gat": Net(gat, graph)}
