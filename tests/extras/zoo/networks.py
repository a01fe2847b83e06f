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

# By network and check: how the message begins, and how it goes on. No more than five.
REFUSED: dict[tuple[str, str], str] = {}
