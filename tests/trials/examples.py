"""One example a trial (a new one is added here), and two ways to run one."""

from __future__ import annotations

from functools import partial

import torch

import pliant.trials
from pliant.causes import Norm, OptimizerState, Units
from pliant.diagnostics import DeadUnits, GradientCovariance, ParameterNorm, RelativeUpdate
from pliant.diagnostics.base import Observation
from pliant.heads import C51, TwoHot
from pliant.interventions import L2, Chain, LayerNorm, ReDo, Reset, ShrinkAndPerturb
from pliant.nets import MLP, Dueling
from pliant.optim import SGD, Adam
from pliant.probe import Sines
from pliant.rl import Catch, Evaluation, Prioritised, Push, RandomLabel, SparseReward, TrueLabel
from pliant.tasks import Growing, OffsetNoise, RandomLabels
from pliant.trials import (
    SAC,
    ActionValues,
    Arrays,
    Fit,
    Mechanisms,
    Numbers,
    Policy,
    ProbeLoss,
    QLearning,
    Steps,
    Supervised,
    Trial,
    ValueLearning,
    When,
)
from tests.listed import classes
from tests.rl.scripted import Scripted

NET = partial(MLP, hidden=(8, 8))
LABELS = RandomLabels(num_examples=40, batch_size=10, every=30, num_tasks=4)


def histogram(seen: Observation) -> torch.Tensor:
    """How the sizes of the first weights are distributed."""
    return torch.stack([(seen.params["hidden.0.weight"].abs() > edge).sum() for edge in (0.0, 0.05, 0.1)]).float()


def gram(seen: Observation) -> torch.Tensor:
    """The first inputs' inner products."""
    x = seen.x[:4].flatten(1)
    return x @ x.T


EXAMPLES: dict[str, Trial] = {
    "Supervised": Supervised(
        LABELS,
        "digits",
        NET,
        Adam(1e-3, eps_root=1e-3),
        Chain(LayerNorm(), L2(1e-3), ReDo(tau=0.1, every=20), ShrinkAndPerturb(0.9, 0.1)),
        measures=(
            Fit(When(every=7)),
            Numbers((DeadUnits(), ParameterNorm(), RelativeUpdate()), When(every=11)),
            Steps(When(first=3, ends=False)),
            Arrays({"histogram": histogram, "gram": gram}, frozenset({"x"}), When(every=25)),
        ),
        together=3,
    ),
    "Supervised, probed": Supervised(
        OffsetNoise(num_examples=20, batch_size=10, every=20, num_tasks=2, offset=2.0, outputs=2),
        "digits",
        NET,
        SGD(1e-2),
        measures=(
            Fit(),
            Mechanisms(
                Sines(), (Units(), Norm(), OptimizerState()), When(tasks=(1,)), targets=2, steps=3, batch_size=10
            ),
        ),
        standardize=False,
    ),
    "Supervised, two phases and a head": Supervised(
        OffsetNoise(num_examples=20, batch_size=10, every=(35, 12), num_tasks=2, offset=(1.0, 0.0), outputs=2),
        "digits",
        NET,
        Adam(1e-3),
        head=TwoHot(-3.0, 3.0, 11),
        measures=(Fit(When(every=5), head=TwoHot(-3.0, 3.0, 11)),),
    ),
    "Supervised, growing data": Supervised(
        Growing(num_examples=40, batch_size=10, every=12, num_tasks=3, begin=10),
        "digits",
        NET,
        Adam(1e-3),
        measures=(Fit(),),
    ),
    "QLearning": QLearning(
        Catch(5, 4),
        NET,
        Adam(1e-3),
        num_steps=80,
        chain=Chain(LayerNorm(), ReDo(tau=0.1, every=10), Reset("last", event="target_update")),
        begin=40,
        decay=30,
        batch_size=8,
        learn_period=2,
        target_period=15,
        capacity=24,
        steps=3,
        measures=(
            ActionValues(When(every=7), examples=20),
            ProbeLoss(Sines(), When(ends=False, at=(70,)), targets=2, steps=4, batch_size=10, examples=20, points=3),
            Numbers((DeadUnits(), RelativeUpdate(), GradientCovariance()), When(every=26, ends=False), examples=20),
        ),
    ),
    "QLearning, C51 on cut episodes, with stacks": QLearning(
        Scripted((3, 1, 6, 9), repeat=2, cut=(6,), lost=(4,)),
        NET,
        SGD(1e-2),
        num_steps=90,
        head=C51(-3.0, 3.0, 9),
        double=False,
        gamma=0.9,
        begin=50,
        epsilon=0.0,
        decay=1,
        batch_size=8,
        learn_period=3,
        target_period=10,
        capacity=30,
        stack=3,
        prioritised=Prioritised(between=(20, 60), uniform=0.1),
        clip=1.0,
        measures=(ActionValues(When(), 20, C51(-3.0, 3.0, 9)),),
    ),
    "QLearning, Rainbow": QLearning(
        Catch(5, 4),
        partial(Dueling, bins=9, channels=(3,), hidden=6, kernels=(3,), strides=(1,)),
        Adam(1e-3),
        num_steps=66,
        chain=Chain(LayerNorm(), Reset("value.*", event="reset")),
        head=C51(-3.0, 3.0, 9),
        begin=40,
        epsilon=0.0,
        decay=1,
        batch_size=8,
        learn_period=4,
        target_period=12,
        capacity=40,
        steps=3,
        num_updates=2,
        prioritised=Prioritised(between=(20, 60)),
        reset_period=7,
        evaluation=Evaluation(every=33, frames=10, epsilon=0.2),
        measures=(ActionValues(When(every=20), 20, C51(-3.0, 3.0, 9)),),
    ),
    "SAC": SAC(
        Push(6),
        num_steps=70,
        net=NET,
        chain=Chain(LayerNorm(), ReDo(tau=0.1, every=10), Reset("last", event="reset")),
        begin=40,
        batch_size=8,
        learn_period=2,
        num_updates=3,
        capacity=30,
        reset_period=9,
        evaluation=Evaluation(every=35, frames=15),
        measures=(
            Numbers((DeadUnits(), RelativeUpdate(), GradientCovariance()), When(every=13, ends=False), examples=20),
            ProbeLoss(Sines(), When(ends=False, at=(70,)), targets=2, steps=4, batch_size=10, examples=20, points=3),
            Steps(When(every=9)),
        ),
    ),
    "ValueLearning": ValueLearning(
        SparseReward(80),
        "digits",
        NET,
        Adam(1e-3),
        num_steps=62,
        chain=Chain(LayerNorm(), L2(1e-3), ReDo(tau=0.1, every=20), Reset("last", event="target_update")),
        gamma=0.9,
        batch_size=16,
        target_period=10,
        capacity=70,
        fill=50,
        envs=2,
        act_every=3,
        measures=(
            Policy(When(every=7), examples=40),
            ProbeLoss(Sines(), When(every=31), targets=2, steps=4, batch_size=10, examples=20, points=3),
            Numbers((DeadUnits(), RelativeUpdate(), GradientCovariance()), When(every=11, ends=False), examples=20),
        ),
        together=3,
    ),
    "ValueLearning, double, two-hot": ValueLearning(
        RandomLabel(80),
        "digits",
        NET,
        Adam(1e-3),
        num_steps=55,
        chain=Chain(ShrinkAndPerturb(0.8, 0.2, event="target_update")),
        head=TwoHot(-1.0, 4.0, 11),
        begin=0.0,
        gamma=0.7,
        double=True,
        batch_size=8,
        target_period=5,
        target_gets="after",
        fill=40,
        measures=(Policy(When(), 40, TwoHot(-1.0, 4.0, 11)),),
    ),
    "ValueLearning, a bandit with C51": ValueLearning(
        TrueLabel(80),
        "digits",
        NET,
        SGD(1e-2),
        num_steps=30,
        head=C51(-1.0, 3.0, 9),
        gamma=0.5,
        epsilon=1.0,
        batch_size=8,
        target_period=10,
        fill=40,
        measures=(Policy(When(), 20, C51(-1.0, 3.0, 9)),),
        standardize=False,
    ),
}


def registered() -> list[type]:
    """Every trial in the files of the package."""
    return [kind for kind in classes(pliant.trials) if hasattr(kind, "start") and kind is not Trial]
