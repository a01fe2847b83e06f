"""What the experiments on changing labels share: settings, nets by name, what is measured, a table, and claims."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from torch import nn

from pliant.claims import Claim, Effect
from pliant.data import Dataset
from pliant.diagnostics import DeadUnits, LinearizedUnits, ParameterNorm
from pliant.diagnostics.base import Diagnostic
from pliant.experiment import Arm, Column
from pliant.interventions import L2, Chain, LayerNorm
from pliant.nets import CNN, MLP, ResNet18, ViT
from pliant.optim import Adam
from pliant.own import Built, Named, function, one_line
from pliant.tasks import Composite, PermutedClasses, PermutedPixels, RandomLabels, Task
from pliant.tasks.base import Examples
from pliant.trials import Fit, Measure, Numbers, Supervised
from pliant.trials.supervised import Net
from pliant.words import unknown

TASKS: dict[str, type[Task]] = {
    "random_labels": RandomLabels,
    "permuted_pixels": PermutedPixels,
    "permuted_classes": PermutedClasses,
    "composite": Composite,
}
NETS: dict[str, Callable[..., nn.Module]] = {"mlp": MLP, "cnn": CNN, "resnet18": ResNet18, "vit": ViT}
WAYS = {"none": "no intervention", "l2": "L2", "layer_norm": "layer norm", "both": "layer norm + L2"}
WEAR = (DeadUnits(), LinearizedUnits(), ParameterNorm())  # units and norms: what P2's two main mechanisms leave behind


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
            composite, random labels and permuted pixels at once; or `package.module:name`, a task of your own, made
            with (num_examples, batch_size, every, num_tasks).
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

    def trial(self, measures: Sequence[Measure], *, standardize: bool = True) -> Supervised:
        """What all arms share: Adam, without interventions."""
        sizes = self.num_examples, self.batch_size, self.every, self.num_tasks
        if self.task not in TASKS and ":" not in self.task:
            raise ValueError(unknown("task", self.task, [*TASKS, "package.module:name"]))
        task = TASKS[self.task](*sizes) if self.task in TASKS else OwnTask(*sizes, path=self.task)
        adam = Adam(lr=self.lr)
        return Supervised(task, self.data, self.build(), adam, measures=tuple(measures), standardize=standardize)

    def build(self) -> Net:
        """The function that makes the network."""
        return network(self.net, self.hidden)


def network(net: str, hidden: tuple[int, ...]) -> Net:
    """The function that makes a network of this name, or that is at `package.module:function`.

    >>> network("mlp", (8,))((3,), 2).output
    Linear(in_features=8, out_features=2, bias=True)
    """
    if net == "mlp":
        return partial(MLP, hidden=hidden)
    if net in NETS:
        return NETS[net]
    if ":" not in net:
        raise ValueError(unknown("net", net, [*NETS, "package.module:function"]))
    return Built(net)


@dataclass(frozen=True)
class OwnTask(Named, Task):
    """A task of somebody's own, at `package.module:name`, made with the four sizes; imported when it is first wanted.

    Raises `ValueError`, naming the setting, where it cannot be, and for what fails or is no task.

    >>> OwnTask(4, 2, 10, 3, path="pliant.tasks:RandomLabels").within
    RandomLabels(num_examples=4, batch_size=2, every=10, num_tasks=3, fraction=1.0)
    """

    path: str

    @cached_property
    def within(self) -> Task:
        """The task."""
        with one_line(f"--set task={self.path} fails when made"):
            sizes = self.num_examples, self.batch_size, self.every, self.num_tasks
            made = function(self.path, "--set task=")(*sizes)
        if not isinstance(made, Task):
            raise ValueError(f"--set task={self.path}: expected a pliant.tasks.Task, got {type(made).__name__}")
        return made

    def size(self, task: int) -> int:
        return self.within.size(task)

    def examples(self, data: Dataset, seed: int, task: int, previous: Examples | None = None) -> Examples:
        return self.within.examples(data, seed, task, previous)


def whole(strength: float) -> L2:
    """L2 on the squared norm of the whole parameter vector, as P2 words it: normalisers' scales and offsets, too."""
    return L2(strength, normalisers=True)


def chains(l2: float) -> dict[str, Chain]:
    """Nothing, L2, layer norm, and both: what P2 compares."""
    shrunk = whole(l2)
    return {"none": Chain(), "l2": Chain(shrunk), "layer_norm": Chain(LayerNorm()), "both": Chain(LayerNorm(), shrunk)}


def compared(trial: Supervised, l2: float) -> dict[str, Arm]:
    """An arm with each of `chains`."""
    return {way: Arm(WAYS[way], replace(trial, chain=chain)) for way, chain in chains(l2).items()}


def looks(diagnostics: Sequence[Diagnostic] = WEAR, fit: type[Fit] = Fit) -> tuple[Fit, Numbers]:
    """The fit and diagnostics at the end of every task, on up to 1,024 examples."""
    return fit(examples=1024), Numbers(tuple(diagnostics), examples=1024)


def table(learned: str = "accuracy") -> tuple[Column, ...]:
    """The closing table: what is learned in the first and in the last task, and the wear at the end."""
    return (
        Column("first task", learned, "first"),
        Column("last task", learned),
        Column("dead", "dead"),
        Column("linear-\nized", "linearized"),
        Column("norm\nratio", "norm_ratio", digits=1),
    )


def fell(arm: str) -> Effect:
    """How far an arm's accuracy fell from the end of the first task to that of the last."""
    return lambda r: r.first(arm, "accuracy") - r.last(arm, "accuracy")


def above(arm: str, other: str) -> Effect:
    """How far one arm ends above another in accuracy."""
    return lambda r: r.last(arm, "accuracy") - r.last(other, "accuracy")


def fits(arm: str, what: str) -> Claim:
    """The precondition that an arm learned its first task; `what` begins the sentence, as in `layer norm fits its`."""
    return Claim(f"{what} first task to 0.5", lambda r: r.first(arm, "accuracy"), 0.5, ours=True)


def average(arm: str) -> Effect:
    """An arm's accuracy at the ends of tasks, averaged over all: what is weaker or slower stays below."""
    return lambda r: r.ends(arm, "accuracy").mean(axis=1)


def lost_units(arm: str) -> Effect:
    """The share of an arm's units that are dead or linearized at the end."""
    return lambda r: r.last(arm, "dead") + r.last(arm, "linearized")


def keeps(arm: str, over: str = "", said: str = "both fit their") -> Claim:
    """That layer norm with L2 keeps its accuracy, given that it learned; `over` ends the sentence."""
    return Claim(
        f"Layer norm and L2 together lose at most 0.05 of accuracy{over}.",
        lambda r: -fell(arm)(r),
        threshold=-0.05,
        ours=True,
        given=(fits(arm, said),),
        checklist=(36,),
    )


def complementary(name: Callable[[str], str] = str, begin: str = "") -> tuple[Claim, Claim]:
    """That layer norm and L2 each stop what the other lets happen; `name` makes their arms, `begin` the sentences."""
    return (
        Claim(
            f"{begin}{'layer' if begin else 'Layer'} norm alone lets the parameter norm grow; adding L2 stops it "
            "(difference of the norm ratios).",
            lambda r: r.last(name("layer_norm"), "norm_ratio") - r.last(name("both"), "norm_ratio"),
            checklist=(37,),
        ),
        Claim(
            f"{begin}L2 alone lets dead and linearized units accumulate; adding layer norm stops it (difference of "
            "the shares).",
            lambda r: lost_units(name("l2"))(r) - lost_units(name("both"))(r),
            checklist=(37,),
        ),
    )
