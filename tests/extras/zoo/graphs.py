"""torch_geometric's graph networks: a node's output depends on its neighbours, so samples are not independent."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from pliant import Inputs
from tests.extras.zoo.network import Net

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it says when it is imported
    from torch_geometric.nn.models import GAT, GCN


def graph() -> Inputs:
    edges = torch.randint(12, (2, 30))
    return Inputs((torch.randn(12, 5), edges), {})


def gcn() -> nn.Module:
    return GCN(in_channels=5, hidden_channels=16, num_layers=3, out_channels=3)


def gat() -> nn.Module:
    return GAT(in_channels=5, hidden_channels=16, num_layers=3, out_channels=3, heads=2)


NETWORKS = {"gcn": Net(gcn, graph), "gat": Net(gat, graph)}
