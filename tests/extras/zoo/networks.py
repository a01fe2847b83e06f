"""All networks of the zoo, and what is refused."""

from __future__ import annotations

from tests.extras.zoo import agents, graphs, images, language, written
from tests.extras.zoo.network import Net

FAMILIES = {
    "Image networks of timm with activations in place": images.IN_PLACE,
    "Other image networks of timm": images.OTHERS,
    "Transformers": language.NETWORKS,
    "Agents of Stable-Baselines3 after `learn`": agents.NETWORKS,
    "Graph networks of torch_geometric": graphs.NETWORKS,
    "Written by hand": written.NETWORKS,
}
NETWORKS: dict[str, Net] = {
    **images.NETWORKS, **language.NETWORKS, **agents.NETWORKS, **graphs.NETWORKS, **written.NETWORKS,
}  # fmt: skip

GRAPH = r"expected as many samples in each of the inputs, .* samples that depend on each other \(nodes of a graph\)"
REFUSED: dict[tuple[str, str], str] = {  # by network and check, what the message says; no more than five
    ("gcn", "plasticity"): GRAPH,
    ("gcn", "disentangle"): GRAPH,
    ("gat", "plasticity"): GRAPH,
    ("gat", "disentangle"): GRAPH,
    ("mixtral", "build"): r"LayerNorm found no linear or convolution layer of MixtralForCausalLM that feeds a "
    r"nonlinearity \(left alone .*experts.*: no layer feeds them directly\)",
}
