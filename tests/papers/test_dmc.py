"""Soft actor-critic in DeepMind Control as an experiment: where layer norm is, and what is evidence for P2's line."""

from __future__ import annotations

from dataclasses import replace

import torch

from pliant.experiment import find
from pliant.papers.lyle2024.dmc import CHAINS, TASKS, Settings
from pliant.papers.toolbox.minatar import Settings as Games
from pliant.papers.toolbox.minatar import claims as games_claims


def test_layer_norm_stands_before_the_activations_of_the_first_and_the_third_layer_of_actor_and_critics() -> None:
    settings = replace(Settings(), hidden=(5, 6, 7))
    module = CHAINS["layer_norm"][1].build(settings.trial("push", CHAINS["none"][1]).net((4,), 2), torch.zeros(2, 4))
    assert [name for name, _ in module.named_parameters() if "norm" in name] == [
        "hidden.0.norm.weight", "hidden.0.norm.bias", "hidden.2.norm.weight", "hidden.2.norm.bias",
    ]  # fmt: skip


def test_only_the_whole_of_it_is_evidence_for_the_papers_line() -> None:
    experiment = find("lyle2024/dmc")
    paper, laptop = (experiment.setup(experiment.settings(tier)).claims for tier in ("paper", "laptop"))
    assert len(TASKS) == len(set(TASKS)) == 28
    assert sum(44 in claim.checklist for claim in paper) == 1 + 25
    assert not any(claim.checklist for claim in laptop)
    assert sum(44 in claim.beside for claim in laptop) == 3 + 1
    smaller = experiment.settings("paper", ["num_steps=100000"])
    assert not any(claim.checklist for claim in experiment.setup(smaller).claims)
    assert {number for claim in games_claims(Games()) for number in claim.beside} == {24, 43}
