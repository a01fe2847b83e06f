"""What the experiments on changing labels share: settings, and nets by name or import path."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from pliant.claims import Claim, Effect
from pliant.nets import CNN, MLP, ResNet18, ViT
from pliant.optim import Adam
from pliant.own import Built
from pliant.tasks import Composite, PermutedClasses, PermutedPixels, RandomLabels, Task
from pliant.trials import Measure, Supervised
from pliant.trials.supervised import Net
from pliant.words import unknown

TASKS: dict[str, type[Task]] = {
    "random_labels": RandomLabels,
    "permuted_pixels": PermutedPixels,
    "permuted_classes": PermutedClasses,
    "composite": Composite,
}
NETS: dict[str, Callable[..., nn.Module]] = {"mlp": MLP, "cnn": CNN, "resnet18": ResNet18, "vit": ViT}


@dataclass(frozen=True)
class Memorisation:
    """Settings of an experiment on a stream of tasks, by default random labels that are drawn again at every switch.

    Args:
        data: a data set's name, or the path of an .npz file with arrays x and y.
        net: mlp, cnn, resnet18, vit, or `package.module:function`, a function of (input shape,
            number of outputs), or of nothing.
        hidden: widths of the hidden layers of the mlp; other nets have the sizes of the papers.
        num_examples: images a seed keeps.
        batch_size: examples a step.
        every: steps a task.
        num_tasks: tasks.
        lr: learning rate of Adam.
        task: random_labels, which are drawn again; permuted_pixels or permuted_classes, with the true labels;
            composite, random labels and permuted pixels at once.
    """

    data: str = "mnist"
    net: str = "mlp"
    hidden: tuple[int, ...] = (128, 128)
    num_examples: int = 1000
    batch_size: int = 128
    every: int = 500
    num_tasks: int = 30
    lr: float = 1e-3
    task: str = "random_labels"

    def without_effect(self, changed: Collection[str]) -> list[str]:
        """Which of the changed settings nothing reads."""
        return ["hidden"] if "hidden" in changed and self.net != "mlp" else []

    def trial(self, measures: Sequence[Measure], *, standardize: bool = True) -> Supervised:
        """What all arms share: Adam, without interventions."""
        if self.task not in TASKS:
            raise ValueError(unknown("task", self.task, list(TASKS)))
        task = TASKS[self.task](self.num_examples, self.batch_size, self.every, self.num_tasks)
        adam = Adam(lr=self.lr)
        return Supervised(task, self.data, self.build(), adam, measures=tuple(measures), standardize=standardize)

    def build(self) -> Net:
        """The function that makes the network."""
        if self.net == "mlp":
            return partial(MLP, hidden=self.hidden)
        if self.net in NETS:
            return NETS[self.net]
        if ":" not in self.net:
            raise ValueError(unknown("net", self.net, [*NETS, "package.module:function"]))
        return Built(self.net)


def fell(arm: str) -> Effect:
    """How far an arm's accuracy fell from the end of the first task to that of the last."""
    return lambda r: r.first(arm, "accuracy") - r.last(arm, "accuracy")


def above(arm: str, other: str) -> Effect:
    """How far one arm ends above another in accuracy."""
    return lambda r: r.last(arm, "accuracy") - r.last(other, "accuracy")


def fits(arm: str, what: str) -> Claim:
    """The precondition that an arm learned its first task; `what` begins the sentence, as in `layer norm fits its`."""
    return Claim(f"{what} first task to 0.5", lambda r: r.first(arm, "accuracy"), 0.5, ours=True)


def lost_units(arm: str) -> Effect:
    """The share of an arm's units that are dead or linearized at the end."""
    return lambda r: r.last(arm, "dead") + r.last(arm, "linearized")
