"""ResNet-18 in the form for small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pliant.nets._arguments import Activation, Norm, check_shape, check_size, normaliser
from pliant.nets.norms import batch_norm


class ResNet18(nn.Module):
    """ResNet-18 for small images: a 3 x 3 stem, eight residual blocks, the mean over space, a linear output layer.

    Takes images `(batch, channels, height, width)` and returns `(batch, outputs)`. The stem is `stem`, `stem_norm`,
    `stem_activation`; the blocks are `blocks.0` to `blocks.7`, two each with 64, 128, 256 and 512 channels times
    `width`. A block is `conv1`, `norm1`, `activation1`, `conv2`, `norm2`, then the sum with the shortcut, then
    `activation2`. The shortcut is the input, or where its shape changes the convolution `shortcut` and `shortcut_norm`.

    Args:
        shape: (channels, height, width) of one image.
        outputs: number of outputs.
        width: multiplies the channels: 64 * width, rounded, in the first two blocks.
        activation: makes the nonlinearity, `nn.ReLU` say.
        norm: makes a convolution's normaliser from its channels (see `pliant.nets.norms`), or None. Convolutions have a
            bias only without it.

    Raises:
        ValueError: a size is below 1, or `width` leaves no channel.

    >>> import torch
    >>> net = ResNet18((3, 32, 32), 10, width=1 / 16)
    >>> net(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 10])

    Source: P1 A.2 ("standard ResNet-18"); He et al. 2016, 18 layers, with the 3 x 3 stem of their networks for CIFAR.

    Deviations, where P1 does not say: the stem has stride 1 and no max-pooling follows it; shortcuts are projections
    where shapes change (option B of He et al.); batch normalisation has no running averages, so evaluation uses the
    batch's statistics too; initial weights are PyTorch's, U(-1, 1) / sqrt(fan_in), where He et al. draw
    N(0, 2 / fan_in).
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        width: float = 1.0,
        activation: Activation = nn.ReLU,
        norm: Norm | None = batch_norm,
    ):
        super().__init__()
        check_shape(shape)
        check_size("outputs", outputs)
        base = round(64 * width)
        if base < 1:
            raise ValueError(f"expected width of 1/64 or more, which leaves one channel of 64, got {width}")
        self.stem = nn.Conv2d(shape[0], base, 3, padding=1, bias=norm is None)
        self.stem_norm = normaliser(norm, base)
        self.stem_activation = activation()
        self.blocks = nn.ModuleList()
        channels = base
        for stage in range(4):
            for stride in (1 if stage == 0 else 2, 1):
                self.blocks.append(_Block(channels, base * 2**stage, stride, activation, norm))
                channels = base * 2**stage
        self.output = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_activation(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.output(x.mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, inputs: int, channels: int, stride: int, activation: Activation, norm: Norm | None):
        super().__init__()
        bias = norm is None
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=bias)
        self.norm1 = normaliser(norm, channels)
        self.activation1 = activation()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.norm2 = normaliser(norm, channels)
        if stride == 1 and inputs == channels:
            self.shortcut, self.shortcut_norm = nn.Identity(), nn.Identity()
        else:
            self.shortcut = nn.Conv2d(inputs, channels, 1, stride, bias=bias)
            self.shortcut_norm = normaliser(norm, channels)
        self.activation2 = activation()

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return self.activation2(y + self.shortcut_norm(self.shortcut(x)))
