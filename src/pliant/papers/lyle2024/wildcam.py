"""P2-E11: a natural shift, iWildCam's cameras one after another; needs the folder of WILDS."""

from __future__ import annotations

from pliant.experiment import Experiment, Setup
from pliant.papers import places
from pliant.papers.places import SMOKE, Settings


def setup(settings: Settings) -> Setup:
    """Places of cameras, from WILDS' folder."""
    real = settings.data.startswith("iwildcam")
    return places.setup(
        settings,
        (
            "The 20 places with most images of WILDS' training split; every fifth sequence of a place is held out. P2 "
            "does not say which 20. Images are shrunk, and standardised over all 20 places."
            if real
            else f"Data: {settings.data}, composited: no natural shift, and no evidence for what P2 says.",
            *(() if settings.whole or not real else ("Smaller than P2's: no evidence for what P2 says.",)),
        ),
    )


EXPERIMENT = Experiment(
    id="lyle2024/wildcam",
    title="A natural shift: 20 cameras of iWildCam, one after another",
    figure="P2's natural shift (iWildCam)",
    references=("lyle2024", "beery2020", "koh2021"),
    tiers={
        "smoke": SMOKE,
        "laptop": Settings(data="iwildcam-32"),
        "paper": Settings(data="iwildcam", net="resnet18", batch_size=64, l2=1e-5),
    },
    setup=setup,
)
