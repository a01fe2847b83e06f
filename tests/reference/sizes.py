"""Norms and entropies, one number at a time."""

import math

import numpy as np


def norm(tensors):
    return math.sqrt(sum(float(entry) ** 2 for tensor in tensors.values() for entry in tensor.flatten()))


def entropy(logits):
    total = 0.0
    for row in logits.tolist():
        exponentials = [math.exp(z - max(row)) for z in row]
        p = [e / sum(exponentials) for e in exponentials]
        total -= sum(q * math.log(q) for q in p if q > 0)
    return total / len(logits)


def feature_norm(features):
    return sum(math.hypot(*row) for row in np.asarray(features, dtype=np.float64)) / len(features)


def effective_lr(weight, lr):
    size = math.hypot(*np.asarray(weight, dtype=np.float64).flatten())
    return lr / size**2, lr / size
