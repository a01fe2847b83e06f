"""The top direction of the features from the eigenvectors of both Gram matrices, and what is read off it."""

import numpy as np


def top(features):
    """The largest two singular values, and the top left and right directions."""
    phi = np.asarray(features, dtype=np.float64)
    values, right = np.linalg.eigh(phi.T @ phi)
    _, left = np.linalg.eigh(phi @ phi.T)
    s = np.sqrt(np.clip(values[::-1], 0, None))
    return s[0], s[1], left[:, -1], right[:, -1]


def constancy(left):
    ones = np.ones(len(left))
    return abs(left @ ones) / (np.linalg.norm(left) * np.linalg.norm(ones))


def head_share(weight, right):
    w = np.asarray(weight, dtype=np.float64)
    return np.sqrt(sum((row @ right) ** 2 for row in w) / (w**2).sum())


def offset(y):
    y = np.asarray(y, dtype=np.float64)
    return y.mean() / np.sqrt(((y - y.mean()) ** 2).mean())
