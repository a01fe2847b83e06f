"""P2-E10: soft actor-critic in DeepMind Control, with layer norm before the activation of layers 1 and 3."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from pliant.claims import Claim, Effect
from pliant.diagnostics import DeadUnits, ParameterNorm
from pliant.experiment import Arm, Column, Experiment, Setup
from pliant.interventions import Chain, LayerNorm, Only
from pliant.nets import MLP
from pliant.optim import Adam
from pliant.papers.games import Replayed, area, period, rise
from pliant.plots import Lines
from pliant.probe import Sines
from pliant.results import Results
from pliant.rl import DMC, Environment, Push
from pliant.trials import SAC, Numbers, When

CHAINS = {
    "none": ("", Chain()),
    "layer_norm": (", layer norm", Chain(Only("hidden.0.*", LayerNorm()), Only("hidden.2.*", LayerNorm()))),
}
# dm_control.suite.BENCHMARKING: exactly 28, as many as P2 names
TASKS = (
    "acrobot_swingup", "acrobot_swingup_sparse", "ball_in_cup_catch", "cartpole_balance", "cartpole_balance_sparse",
    "cartpole_swingup", "cartpole_swingup_sparse", "cheetah_run", "finger_spin", "finger_turn_easy",
    "finger_turn_hard", "fish_swim", "fish_upright", "hopper_hop", "hopper_stand", "humanoid_run", "humanoid_stand",
    "humanoid_walk", "manipulator_bring_ball", "pendulum_swingup", "point_mass_easy", "reacher_easy", "reacher_hard",
    "swimmer_swimmer15", "swimmer_swimmer6", "walker_run", "walker_stand", "walker_walk",
)  # fmt: skip
LARGEST = 1000.0  # return of an episode
MARGIN = 0.05  # of the largest return
PAPER_STEPS = 1_000_000  # from which a run is the paper's size: humanoid learns nothing sooner


@dataclass(frozen=True)
class Settings(Replayed):
    """Settings of agents in DeepMind Control.

    Args:
        tasks: domain and task each; or push, which needs no package.
        repeat: steps of control an action, and an update.
        hidden: units of the layers of actor and critics.
        together: seeds that are trained as one population.
    """

    tasks: tuple[str, ...] = ("cartpole_swingup", "walker_walk", "cheetah_run")
    num_steps: int = 50_000
    repeat: int = 2
    begin: int = 2000
    hidden: tuple[int, ...] = (256, 256, 256)
    lr: float = 3e-4
    batch_size: int = 128
    capacity: int = 50_000
    rows: int = 24
    together: int = 5

    @property
    def whole(self) -> bool:
        """Whether this is what P2 ran, as far as it is known, and not a stand-in for it."""
        return set(TASKS) <= set(self.tasks) and self.num_steps >= PAPER_STEPS

    def trial(self, task: str, chain: Chain) -> SAC:
        """An agent in a task."""
        looks = When(every=period(self.num_steps - self.begin, self.rows, self.repeat))
        return SAC(
            environment(task, self.repeat),
            self.num_steps,
            partial(MLP, hidden=self.hidden),
            chain,
            Adam(self.lr),
            Adam(self.lr),
            Adam(self.lr),
            begin=self.begin,
            batch_size=self.batch_size,
            learn_period=self.repeat,
            capacity=self.capacity,
            measures=(
                Numbers((DeadUnits(), ParameterNorm()), looks, self.examples),
                self.probe(Sines()),
            ),
            together=self.together,
        )


def environment(task: str, repeat: int) -> Environment:
    """A task by its name.

    >>> environment("walker_walk", 2).limit
    502
    """
    return Push() if task == "push" else DMC(task, repeat)


def name(task: str, intervention: str) -> str:
    """The arm of a task and an intervention.

    >>> name("walker_walk", "layer_norm")
    'walker_walk_layer_norm'
    """
    return f"{task}_{intervention}"


def setup(settings: Settings) -> Setup:
    """Every task, with layer norm and without."""
    arms = {
        name(task, key): Arm(f"{task.replace('_', ' ')}{said}", settings.trial(task, chain))
        for task in settings.tasks
        for key, (said, chain) in CHAINS.items()
    }
    return Setup(
        arms=arms,
        plots=(
            *(
                Lines(
                    "return", f"return in {task.replace('_', ' ')}", over="step",
                    arms=tuple(name(task, key) for key in CHAINS), unit=(1, "step of control"),
                )
                for task in settings.tasks
            ),
            Lines("critic/dead", "critics' dead units (share)", over="step", limits=(0, 1)),
            Lines("alpha", "temperature", over="step", log=True),
        ),
        table=(
            Column("return,\nrandom", "return", "first", digits=0),
            Column("return", "return", digits=0),
            Column("critics' probe\nloss, first", "critic/probe_loss", "first"),
            Column("critics' probe\nloss", "critic/probe_loss"),
            Column("critics'\ndead units", "critic/dead"),
            Column("actor's\ndead units", "actor/dead"),
        ),
        claims=claims(settings),
        deviations=(
            f"{len(settings.tasks)} task{'s' if len(settings.tasks) > 1 else ''}, {settings.num_steps:,} steps of "
            "control"
            + ("." if settings.whole else "; P2 has 28 tasks. Without humanoid, and below a million steps, this is no "
               "evidence for what P2 says, and its claims stand beside P2's line, not for it."),
            f"P2 states three hidden layers and layer norm before the activation of the first and the third, and "
            f"nothing else. Layers of {settings.hidden[0]}, Adam {settings.lr:g} and one update an action are those of "
            "acme (DeepMind's own agents); parameters begin as PyTorch's layers do.",
            f"An action is held for {settings.repeat} steps; {settings.begin:,} steps of random actions come first "
            f"(acme: 10,000 actions), batches have {settings.batch_size} transitions (acme: 256), the replay "
            f"{settings.capacity:,} (acme: 1,000,000).",
            "The 28 tasks are dm_control's BENCHMARKING set, which has as many; P2 does not list its own.",
            "Return: the mean of the latest 100 training episodes, actions drawn and not their means.",
            f"Probes: {settings.targets} targets, {settings.steps:,} steps, {settings.examples} states of the replay, "
            "a fresh optimizer; the control is the untrained network on its first states.",
        ),
    )  # fmt: skip


def beyond(task: str) -> Effect:
    """How much more area layer norm has, as a share of the largest return."""
    return lambda r: (area(name(task, "layer_norm"))(r) - area(name(task, "none"))(r)) / LARGEST


def over(tasks: tuple[str, ...]) -> Effect:
    """The mean of `beyond` over tasks."""

    def mean(r: Results) -> np.ndarray:
        return np.mean([beyond(task)(r) for task in tasks], axis=0)

    return mean


def claims(settings: Settings) -> tuple[Claim, ...]:
    """That agents learn, and what layer norm does to the areas under their curves and to their probes."""
    humanoid = tuple(task for task in settings.tasks if task.startswith("humanoid"))
    others = tuple(task for task in settings.tasks if task not in humanoid)
    evidence, beside = ((44,), ()) if settings.whole else ((), (44,))
    learns = {
        task: Claim(
            f"The plain agent beats random actions in {task.replace('_', ' ')}: mean of its returns.",
            area(name(task, "none")),
            ours=True,
        )
        for task in others
    }
    found = list(learns.values())
    if humanoid:
        found.append(
            Claim(
                "Layer norm raises the mean return of SAC on humanoid by more than 0.05 of the largest there is.",
                over(humanoid),
                MARGIN,
                ours=True,
                given=tuple(
                    Claim(
                        f"The agent with layer norm beats random actions in {task.replace('_', ' ')}.",
                        area(name(task, "layer_norm")),
                        ours=True,
                    )
                    for task in humanoid
                ),
                checklist=evidence,
                beside=beside,
            )
        )
    found += [
        Claim(
            f"Layer norm costs SAC no more than 0.05 of the largest return in {task.replace('_', ' ')}.",
            beyond(task),
            -MARGIN,
            ours=True,
            given=(learns[task],),
            checklist=evidence,
            beside=beside,
        )
        for task in others
    ]
    found.append(
        Claim(
            "The probe loss of plain critics rises by more than that of critics with layer norm, over tasks.",
            lambda r: np.mean(
                [
                    rise(name(task, "none"), "critic/probe_loss")(r)
                    - rise(name(task, "layer_norm"), "critic/probe_loss")(r)
                    for task in settings.tasks
                ],
                axis=0,
            ),
            ours=True,
            beside=(44,),
        )
    )
    return tuple(found)


EXPERIMENT = Experiment(
    id="lyle2024/dmc",
    title="Soft actor-critic in DeepMind Control, with layer norm and without",
    figure="P2's experiments in DeepMind Control (appendix)",
    references=("lyle2024", "haarnoja2018", "tassa2018"),
    tiers={
        "smoke": Settings(
            tasks=("push",), num_steps=160, repeat=1, begin=100, hidden=(16, 16, 16), batch_size=8, capacity=200,
            targets=2, steps=10, examples=40, rows=5,
        ),
        "laptop": Settings(),
        "paper": Settings(
            tasks=TASKS, num_steps=4_000_000, repeat=1, begin=10_000, batch_size=256, capacity=1_000_000, targets=10,
            steps=2000, examples=512, rows=100,
        ),
    },
    setup=setup,
)  # fmt: skip
