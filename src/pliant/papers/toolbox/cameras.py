"""Ours: a stand-in for P2's natural shift, places of cameras composited from image sets that can be had."""

from __future__ import annotations

from pliant.experiment import Experiment, Setup
from pliant.papers import places
from pliant.papers.places import SMOKE, Settings


def setup(settings: Settings) -> Setup:
    """Composited places of cameras."""
    return places.setup(
        settings,
        (
            "A stand-in for iWildCam, and a synthetic shift: items of one image set pasted, at a place, in a size and "
            "at an hour of their own, into one image of another a place, which has a tint, a blur, a night and shares "
            "of classes of its own (Dirichlet 0.3); some show nothing, which is a class, too. No evidence for or "
            "against what P2 says of real cameras.",
            "No sequences: held-out images show items of the items' test set.",
        ),
    )


EXPERIMENT = Experiment(
    id="toolbox/cameras",
    title="Composited cameras, one after another: a stand-in for a natural shift",
    figure="ours, a stand-in for P2's natural shift",
    references=("lyle2024", "xiao2017", "krizhevsky2009"),
    tiers={
        "smoke": SMOKE,
        "laptop": Settings(),
        "paper": Settings(net="resnet18", batch_size=64, l2=1e-5),
    },
    setup=setup,
)
