"""The small vision transformer of P1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.nets._arguments import Activation, Norm, check_shape, check_size, normaliser
from pliant.nets.dropout import Dropout
from pliant.nets.norms import layer_norm


class ViT(nn.Module):
    """A vision transformer: blocks of attention and two linear layers over patches; the class token feeds the output.

    Takes images `(batch, channels, height, width)` and returns `(batch, outputs)`. Attention is written out as matrix
    products and a softmax. Dropout is a function of the key that `Network(params, x, key)` hands over; called without
    a key, as a plain module is, the network drops nothing.

    The embedding is `embedding.patches` (linear), `embedding.token`, `embedding.position`; the blocks are `blocks.0`,
    ..., each with `norm1`, `attention.query`, `.key`, `.value`, `.projection`, then `norm2`, `expand`, `activation`,
    `contract`; then `norm` and `output`. So the nonlinearities are `blocks.0.activation`, ...

    Args:
        shape: (channels, height, width) of one image.
        outputs: number of outputs.
        patch: side of a patch.
        features: units of a token.
        ff: units of each block's hidden layer.
        depth: number of blocks.
        heads: number of attention heads; divides `features`.
        dropout: probability of zeroing, in [0, 1).
        activation: makes the nonlinearity, `nn.GELU` say.
        norm: makes a normaliser of tokens, handed over as samples, from their number of units (see
            `pliant.nets.norms`), or None.

    Raises:
        ValueError: a size is below 1, a patch is larger than the image, `heads` does not divide `features`, or
            `dropout` is outside [0, 1).

    >>> net = ViT((3, 32, 32), 10)
    >>> net(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 10])
    >>> net.embedding.position.shape  # 11 x 11 patches and the class token
    torch.Size([122, 256])

    Source: P1 A.2 (patches of 3, 256 features, 1024 hidden units, one block, dropout 0.1); Dosovitskiy et al. 2021.

    Deviations, where P1 does not say: images whose sides 3 does not divide get zeros around them, the odd one at the
    bottom and right (32 becomes 33, 28 becomes 30); 4 heads, 64 features each as in Dosovitskiy et al.; also theirs:
    GELU, a class token, learned positions, the normaliser at the input of attention, of the hidden layer and of the
    output layer instead of before the nonlinearity, dropout after the embedding, attention, the nonlinearity and the
    second linear layer, none on attention weights. Positions and class token start as N(0, 0.02^2), linear layers as
    PyTorch's, U(-1, 1) / sqrt(fan_in).
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        patch: int = 3,
        features: int = 256,
        ff: int = 1024,
        depth: int = 1,
        heads: int = 4,
        dropout: float = 0.1,
        activation: Activation = nn.GELU,
        norm: Norm | None = layer_norm,
    ):
        super().__init__()
        check_shape(shape)
        sizes = {"outputs": outputs, "patch": patch, "features": features, "ff": ff, "depth": depth, "heads": heads}
        for name, size in sizes.items():
            check_size(name, size)
        if patch > min(shape[1:]):
            raise ValueError(f"expected images no smaller than a patch, got images {tuple(shape)} and patch={patch}")
        if features % heads:
            raise ValueError(f"expected heads to divide features, got features={features} and heads={heads}")
        self.embedding = _Embedding(shape, patch, features)
        self.dropout = Dropout(dropout, salt=0)
        self.blocks = nn.ModuleList(
            _Block(features, ff, heads, dropout, 1 + 3 * i, activation, norm) for i in range(depth)
        )
        self.norm = normaliser(norm, features)
        self.output = nn.Linear(features, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.embedding(x))
        for block in self.blocks:
            x = block(x)
        return self.output(self.norm(x[:, 0]))


class _Embedding(nn.Module):
    """Images to tokens `(batch, 1 + patches, features)`, the class token first."""

    def __init__(self, shape: Sequence[int], patch: int, features: int):
        super().__init__()
        missing_rows, missing_columns = (-side % patch for side in shape[1:])
        self.padding = (missing_columns // 2, (missing_columns + 1) // 2, missing_rows // 2, (missing_rows + 1) // 2)
        self.patch = patch
        tokens = 1 + -(-shape[1] // patch) * -(-shape[2] // patch)
        self.token = nn.Parameter(torch.empty(features))
        self.position = nn.Parameter(torch.empty(tokens, features))
        self.patches = nn.Linear(shape[0] * patch**2, features)
        self.reset_parameters()  # last, so that a fresh draw (inner layers first) equals a new construction

    def reset_parameters(self) -> None:
        """Draws the class token and the positions anew; `patches` has its own."""
        nn.init.normal_(self.token, std=0.02)
        nn.init.normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, self.padding).unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))
        x = x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (batch, patches, channels * rows * columns)
        return torch.cat([self.token.expand(len(x), 1, -1), self.patches(x)], 1) + self.position


class _Attention(nn.Module):
    def __init__(self, features: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(features, features)
        self.key = nn.Linear(features, features)
        self.value = nn.Linear(features, features)
        self.projection = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (  # (batch, heads, tokens, features / heads)
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        weights = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1)
        return self.projection((weights @ value).transpose(1, 2).flatten(2))


class _Block(nn.Module):
    def __init__(
        self, features: int, ff: int, heads: int, dropout: float, salt: int, activation: Activation, norm: Norm | None
    ):
        super().__init__()
        self.norm1 = normaliser(norm, features)
        self.attention = _Attention(features, heads)
        self.dropout1 = Dropout(dropout, salt)
        self.norm2 = normaliser(norm, features)
        self.expand = nn.Linear(features, ff)
        self.activation = activation()
        self.dropout2 = Dropout(dropout, salt + 1)
        self.contract = nn.Linear(ff, features)
        self.dropout3 = Dropout(dropout, salt + 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout1(self.attention(_each_token(self.norm1, x)))
        y = self.dropout2(self.activation(self.expand(_each_token(self.norm2, x))))
        return x + self.dropout3(self.contract(y))


def _each_token(norm: nn.Module, x: Tensor) -> Tensor:
    return norm(x.flatten(0, 1)).unflatten(0, x.shape[:2])
