"""What enters the nonlinearities, one unit and one sample at a time; matrices are `(samples, units)` arrays."""

import math
import statistics

import numpy as np


def units(matrix):
    return [unit.tolist() for unit in np.asarray(matrix, dtype=np.float64).T]


def moments(pre):
    return [statistics.fmean(unit) for unit in units(pre)], [statistics.pvariance(unit) for unit in units(pre)]


def z_shift(pre, before):
    def shift(now, then):
        std = math.sqrt(statistics.pvariance(then))
        return abs(statistics.fmean(now) - statistics.fmean(then)) / std if std > 0 else math.nan

    return [shift(now, then) for now, then in zip(units(pre), units(before), strict=True)]


def one_sided(pre):
    return [min(unit) >= 0 or max(unit) <= 0 for unit in units(pre)]


def sign_agreement(moves):
    return [abs(sum((m > 0) - (m < 0) for m in unit)) / len(unit) for unit in units(moves)]
