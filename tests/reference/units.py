"""Verdicts on units, one unit and one sample at a time; matrices are `(samples, units)` arrays."""

import math

import numpy as np


def columns(*matrices):
    return zip(*(np.asarray(m, dtype=np.float64).T for m in matrices), strict=True)


def dead(slope, tolerance=0.0):
    return [all(abs(g) <= tolerance for g in unit) for (unit,) in columns(slope)]


def dormancy(post):
    sizes = [sum(abs(h) for h in unit) / len(unit) for (unit,) in columns(post)]
    layer = sum(sizes) / len(sizes)
    return [size / layer if layer > 0 else 0.0 for size in sizes]


def dormant(post, tau):
    return [score <= tau for score in dormancy(post)]


def saturated(slope, tolerance, share):
    return [sum(abs(g) > tolerance for g in unit) / len(unit) <= share for (unit,) in columns(slope)]


def unexplained_share(pre, post):
    """1 - R^2 of the least-squares line; None for a constant."""
    if np.var(post) <= 1e-12 * np.mean(post**2):
        return None
    design = np.stack([pre, np.ones_like(pre)], axis=1)
    alpha_beta, *_ = np.linalg.lstsq(design, post, rcond=None)
    return np.mean((post - design @ alpha_beta) ** 2) / np.var(post)


def affine_linear(pre, post, tolerance=1e-3):
    shares = [unexplained_share(a, h) for a, h in columns(pre, post)]
    return [share is not None and share <= tolerance for share in shares]


def linearized(pre, post, slope, tolerance=1e-3):
    return [line and not gone for line, gone in zip(affine_linear(pre, post, tolerance), dead(slope), strict=True)]


def sign_linear(pre, slope, delta):
    def stays(a, g):
        positive, negative = set(g[a > 0]), set(g[a < 0])
        on_positive = np.mean(a >= 0) >= 1 - delta and len(positive) == 1 and 0 not in positive
        on_negative = np.mean(a <= 0) >= 1 - delta and len(negative) == 1 and 0 not in negative
        return on_positive or on_negative

    return [stays(a, g) for a, g in columns(pre, slope)]


def slope_linear(slope, tolerance=1e-2):
    return [np.std(unit) <= tolerance and np.mean(unit) > 0 for (unit,) in columns(slope)]


def active(post):
    return [sum(h > 0 for h in unit) / len(unit) for (unit,) in columns(post)]


def duplicate(post, cosine=0.95):
    units = [unit for (unit,) in columns(post)]

    def alike(u, v):
        lengths = math.hypot(*u) * math.hypot(*v)
        return lengths > 0 and sum(a * b for a, b in zip(u, v, strict=True)) / lengths > cosine

    return [any(alike(u, v) for j, v in enumerate(units) if i != j) for i, u in enumerate(units)]


def gradient_dormancy(rows):
    sizes = [math.hypot(*row) for row in np.asarray(rows, dtype=np.float64)]
    layer = sum(sizes) / len(sizes)
    return [size / layer if layer > 0 else 0.0 for size in sizes]


def gradient_saturated(post, gradient, tolerance=1e-4, share=0.99):
    def flat(h, g):
        size = np.mean(np.abs(h))
        return size > 0 and sum(abs(value) / size < tolerance for value in g) / len(g) > share

    return [flat(h, g) for h, g in columns(post, gradient)]


def silent(post, tolerance=1e-7, share=0.95):
    return [sum(abs(h) < tolerance for h in unit) / len(unit) > share for (unit,) in columns(post)]


def constant(post, tolerance=1e-3):
    return [np.std(unit) < tolerance for (unit,) in columns(post)]
