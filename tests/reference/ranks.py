"""Ranks from the matrix itself, definition by definition."""

import math

import numpy as np


def singular_values(features):
    return np.linalg.svd(np.asarray(features, dtype=np.float64), compute_uv=False)


def effective_rank(features):
    s = singular_values(features)
    if s.sum() == 0:
        return 0.0
    p = [value / s.sum() for value in s]
    return math.exp(-sum(q * math.log(q) for q in p if q > 0))


def srank(features, delta=0.01):
    s = singular_values(features)
    for k in range(len(s) + 1):
        if s[:k].sum() >= (1 - delta) * s.sum():
            return k
    raise AssertionError("unreachable")


def feature_rank(features, eps=0.01):
    return sum(value > eps for value in singular_values(np.asarray(features, np.float64) / math.sqrt(len(features))))


def stable_rank(features):
    phi = np.asarray(features, dtype=np.float64)
    return np.linalg.norm(phi, "fro") ** 2 / np.linalg.norm(phi, 2) ** 2 if phi.any() else 0.0


def participation_ratio(features):
    phi = np.asarray(features, dtype=np.float64)
    gram = phi.T @ phi
    return np.trace(gram) ** 2 / np.trace(gram @ gram) if phi.any() else 0.0


def pca_rank(features, share=0.99):
    squares = singular_values(features) ** 2
    for k in range(len(squares) + 1):
        if squares[:k].sum() >= share * squares.sum():
            return k
    raise AssertionError("unreachable")
