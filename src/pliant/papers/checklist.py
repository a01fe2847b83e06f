"""What a reproduction of both papers has to show: 46 claims, numbered, with the papers' values where they are known.

P1 is read from the paper itself. P2's settings and values come from close readings by others, some of them by eye from
a figure: directions are solid, values are leads.
"""

from __future__ import annotations

from typing import NamedTuple


class Line(NamedTuple):
    """One claim of a paper.

    Args:
        number: by which `Claim.checklist` refers to it.
        where: figure or section; in paper 2 the figures of the arXiv version.
        text: the claim. A threshold that the papers do not state is marked as ours.
        value: the paper's numbers, "direction only" where none is known.
    """

    number: int
    where: str
    text: str
    value: str = "direction only"

    @property
    def paper(self) -> str:
        """The paper's key in refs.bib.

        >>> line(25).paper, line(26).paper
        ('lyle2023', 'lyle2024')
        """
        return "lyle2023" if self.number <= 25 else "lyle2024"


def line(number: int) -> Line:
    """The claim with this number; `ValueError` if there is none.

    >>> line(37).text
    'Layer norm alone lets the parameter norm grow; L2 alone lets linearized and dead units accumulate; together ...'
    """
    if not 1 <= number <= len(CHECKLIST):
        raise ValueError(f"expected a line of the checklist from 1 to {len(CHECKLIST)}, got {number}")
    return CHECKLIST[number - 1]


CHECKLIST = (
    Line(
        1,
        "figure 1",
        "Adam with default settings kills ReLU units on 5,000 MNIST images whose labels are drawn again and again: "
        "within 90,000 steps more than half are dead and accuracy falls below 0.3 (our thresholds).",
        "the axis of the dead share reaches 0.8; accuracy falls to trivial",
    ),
    Line(
        2,
        "figure 1",
        "Adam with b2 = 0.9 and eps_root = 1e-3 keeps the dead share below 0.1 (our threshold) and its accuracy on "
        "every task near that on the first, given that it fits the first to 0.9 (ours).",
    ),
    Line(
        3,
        "figure 1",
        "Right after the labels change, the update norm spikes under default Adam (peak over median above 10, our "
        "threshold), and much less under tuned Adam.",
    ),
    Line(
        4,
        "figure 2",
        "Gradient descent and Brownian motion of the same step norm both raise the largest eigenvalue of the "
        "perturbation loss's Hessian; under gradient descent it grows faster (at least twofold after 5 target "
        "updates, our threshold).",
    ),
    Line(
        5,
        "figure 2",
        "More Hessian eigenvalues lie above the initial largest one after gradient descent than after Brownian motion.",
    ),
    Line(
        6,
        "figure 2",
        "The share of negative cosines between the gradients of 512 examples rises under gradient descent and stays "
        "at its initial level under Brownian motion.",
    ),
    Line(
        7,
        "figures 6, 8 and 9",
        "After 1e5 or more DQN steps the mean probe loss exceeds its value at initialisation, for CNN and MLP, on "
        "MNIST and on CIFAR-10.",
        "increase on CIFAR-10 0.31 (CNN) and 0.27 (MLP), on MNIST 0.27 and 0.34",
    ),
    Line(
        8,
        "figures 4, 17 and 18",
        "Late checkpoints fit the probe more slowly (a higher loss at step 200), while many still reach a low final "
        "loss if given enough steps.",
    ),
    Line(
        9,
        "figures 4, 17 and 18",
        "Probe curves of late checkpoints are less monotone: at more steps the loss of the minibatch increases.",
    ),
    Line(
        10,
        "figure 3",
        "The weight norm correlates positively with plasticity loss on CIFAR-10, and not or negatively on MNIST: the "
        "sign differs.",
    ),
    Line(
        11,
        "figure 3",
        "Each of weight rank, dead units and feature rank changes the sign of its correlation with plasticity loss in"
        " at least one split of the settings.",
    ),
    Line(
        12,
        "figure 3",
        "No single statistic has a rank correlation with plasticity loss beyond 0.8 in size (our threshold) when all "
        "settings are pooled.",
    ),
    Line(13, "figure 3", "Some runs lose plasticity without any increase of dead units."),
    Line(
        14,
        "figure 5",
        "Plasticity loss decreases with every increase of the width, for target periods of 1, 100 and 1000 steps, and"
        " yet stays above 0 at 16 times the width.",
    ),
    Line(15, "figure 5", "At the same width, the MLP on CIFAR-10 loses more plasticity than the CNN on CIFAR-10."),
    Line(
        16,
        "figures 6, 8 and 9",
        "A two-hot head has a smaller increase of the probe loss than regression, for ViT (on CIFAR-10), CNN and MLP.",
        "on CIFAR-10 from 0.13 to 0.05 (ViT), 0.31 to 0.09 (CNN), 0.27 to 0.02 (MLP); on MNIST from 0.27 to -0.02 "
        "(CNN), 0.34 to 0.04 (MLP)",
    ),
    Line(
        17,
        "figures 8 to 11",
        "Two-hot with layer norm on the CNN: the probe loss increases by less than 0.05 and ends below 0.1, on both "
        "data sets.",
        "increase 0.00 and final loss 0.01 on CIFAR-10, 0.03 and 0.04 on MNIST",
    ),
    Line(
        18,
        "figures 10 and 11",
        "Layer norm lowers the final probe loss of the CNN.",
        "0.25 against 0.47 on CIFAR-10, 0.35 against 0.47 on MNIST",
    ),
    Line(
        19,
        "figure 10",
        "Shrink and perturb with a regression head ends at a higher probe loss than no intervention, for ResNet, CNN "
        "and MLP on CIFAR-10; with two-hot it does not.",
        "in that order 0.80, 0.70, 1.00 against 0.21, 0.47, 0.66; with two-hot 0.14, 0.22, 0.49 against 0.20, 0.17, "
        "0.49",
    ),
    Line(
        20,
        "figures 8 and 9, appendix B.1",
        "Weight decay of 1e-5 alone does not reduce the increase of the probe loss, within noise; nor does resetting "
        "the optimizer state alone.",
        "weight decay on CIFAR-10 (ResNet, ViT, CNN, MLP) 0.26, 0.17, 0.34, 0.28 against 0.20, 0.13, 0.31, 0.27",
    ),
    Line(
        21,
        "figures 6 and 8",
        "Resetting the last layer removes the increase of the probe loss for ResNet and ViT, but not for the CNN.",
        "0.00, 0.04, 0.36 on CIFAR-10",
    ),
    Line(
        22,
        "figures 12 and 13",
        "Shrink and perturb and resetting the last layer keep accuracy on the hard MDP at chance (at most 0.2); no "
        "intervention and layer norm exceed 0.5.",
        "upper ends of the axes, in that order: 0.14, 0.18, 0.6, 1.0 on CIFAR-10; 0.18, 0.20, 0.8, 0.8 on MNIST",
    ),
    Line(
        23,
        "figure 14",
        "The CNN's largest Hessian eigenvalue rises over 30 iterations without layer norm, and with it stays within "
        "twice its start (our threshold); the gap is larger on the true-label MDP.",
        "without layer norm to about 200 (random labels) and 500 (true labels)",
    ),
    Line(
        24,
        "figures 7, 19 and 20",
        "Layer norm improves double DQN on more than 70 % of 57 Atari games (needs a cluster of GPUs).",
        "45 games up, 2 unchanged, 10 down; median +22.2 %, mean +34.7 %",
    ),
    Line(
        25,
        "figures 7 and 19",
        "Runs that fail to learn, as some seeds of Freeway do, have gradients with a larger mean absolute cosine.",
    ),
    Line(
        26,
        "figure 1 left",
        "The loss of fine-tuning after pretraining increases with the offset c of the pretraining targets over 0, 8, "
        "16, 32, although pretraining is stationary.",
    ),
    Line(
        27,
        "appendix E.1",
        "The largest singular value of the features grows more than tenfold (our threshold) from c = 0 to c = 32 or "
        "100, while the norm of the last layer's bias does not follow c.",
        "order 1e3 for zero-mean targets, 1e8 for mean 100",
    ),
    Line(
        28,
        "appendix E.1",
        "The features' projection on their top singular direction is nearly the same for all inputs (standard "
        "deviation over mean below 0.1, our threshold).",
    ),
    Line(
        29,
        "appendix E.1",
        "Layer norm bounds the largest singular value, but its ratio to the tenth stays larger than for c = 0; two-"
        "hot keeps that ratio near its value for c = 0.",
    ),
    Line(
        30,
        "figure 1 right",
        "With the total amount of relabelling matched, accuracy on the final task decreases with how abrupt the "
        "changes are: worse when all labels change at once than when 1 % do at a time; all decline somewhat.",
    ),
    Line(
        31,
        "figure 2 left",
        "After a task switch without layer norm the share of units with preactivations of one sign rises within some "
        "hundreds of steps; with layer norm it rises and then recovers.",
        "dead share, by eye: without from 0.2 to 0.7; with from 0 to 0.9 and back to 0 within about 400 steps",
    ),
    Line(
        32,
        "figure 2 right",
        "Over many relabellings, linearized units accumulate in GELU and LeakyReLU nets without layer norm (more than"
        " half of 256), and stay below 20 % with it.",
        "of 256 units, by eye: GELU 170 to 250 without layer norm and about 0 with; LeakyReLU 80 to 250 and 10 to 40",
    ),
    Line(
        33,
        "figure 2 centre",
        "Right after a switch the first gradients push the preactivations of most first-layer units in one direction,"
        " on more than 90 % of the inputs (our threshold); later they do so less.",
    ),
    Line(
        34,
        "figure 3",
        "The parameter norm and the largest Hessian eigenvalue correlate positively along a run (above 0.5, our "
        "threshold).",
    ),
    Line(
        35,
        "figure 3",
        "The effective rank of the empirical NTK, or of its off-diagonal part, falls for offset regression, ReLU "
        "memorisation and LeakyReLU memorisation, fastest for offset regression.",
    ),
    Line(
        36,
        "figure 4",
        "For each of layer norm, L2, ReDo and LeakyReLU alone there is a task or an architecture on which accuracy "
        "falls over 20 or more relabellings; layer norm with L2 (1e-5) does not fall on MLP, CNN and ResNet-18.",
    ),
    Line(
        37,
        "figure 4",
        "Layer norm alone lets the parameter norm grow; L2 alone lets linearized and dead units accumulate; together "
        "they stop both.",
    ),
    Line(
        38,
        "figure 4 left",
        "A soft penalty on the feature norm, and rescaling the weights to their initial norm, are weaker or slower "
        "than layer norm and batch norm.",
    ),
    Line(39, "figure 4 right", "InFeR, a gradient-norm penalty and Shampoo do not beat layer norm with L2."),
    Line(
        40,
        "figures 5 and 21",
        "On the contextual bandit with discount 0.99, regression with layer norm and L2 still loses probe plasticity;"
        " two-hot (with label smoothing), layer norm and L2 do not.",
    ),
    Line(41, "figures 5 and 21", "With discount 0, two-hot shows a spike of the loss, which label smoothing removes."),
    Line(
        42,
        "appendix F, figure 25",
        "A hybrid that subtracts batch norm's mean and divides by layer norm's standard deviation is at least as good"
        " as either, over 100 relabellings.",
    ),
    Line(
        43,
        "appendices E.4 and E.11",
        "L2 of 1e-5 and more hurts the return of value-based RL (C51 on Atari); layer norm helps.",
        "swept over 1e-7, 1e-5 and 1e-3; 1e-7 already interferes",
    ),
    Line(
        44,
        "appendix, DeepMind Control",
        "Layer norm clearly improves SAC on humanoid and does no harm on the other tasks.",
    ),
    Line(
        45,
        "natural shift, iWildCam",
        "Over 20 camera locations of 2,000 steps, the accuracy gap between layer norm with L2 and the plain network "
        "grows with the number of shifts.",
    ),
    Line(
        46,
        "figure 4, reviewers' remark",
        "On a single task, the peak accuracy of layer norm with L2 is at or below that of layer norm alone.",
    ),
)
