"""A study of somebody's own, before anything is trained: every mistake in it as one line."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Sequence

import numpy as np

from pliant.claims import Claim, Exists
from pliant.experiment import Experiment, Setup
from pliant.own import one_line
from pliant.plots.figures import captions, figure, sheets
from pliant.results import Missing, Results
from pliant.run.identity import definition
from pliant.run.train import train
from pliant.words import unknown


def rehearse(experiment: Experiment, setup: Setup, arms: Sequence[str]) -> None:
    """Trains every arm for a few steps, then asks plots, table, claims and sentences what they read.

    Raises `ValueError` for whatever fails: what cannot be handed to a worker or has no import path, a network or a
    measure that fails, a column that nothing measures, a claim that fails or gives no number a seed.
    """
    with one_line(f"{experiment.id} cannot be handed to a worker (write functions of the module)"):
        pickle.dumps(experiment)
    for arm in arms:
        with one_line(f"arm {arm!r}"):
            setup.arms[arm].trial.start([0])  # warns of what has no effect
    tables = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few steps, and of means of nothing
        for arm in arms:
            with one_line(f"arm {arm!r}"):
                definition(setup.arms[arm])
                (table,) = train(setup.arms[arm].trial.brief(), [0]).tables.values()
            tables |= {(arm, seed): table for seed in (0, 1)}
        results = Results(tables)
        known = results.columns()
        for column in setup.columns():
            if column not in known:
                raise ValueError(f"a plot or the table reads what nothing measures: {unknown('column', column, known)}")
        for sheet in sheets(setup.plots):
            with one_line(f"plot {', '.join(repr(plot.title) for plot in sheet)}"):
                figure(experiment.title, sheet, results, setup.look)
                captions(sheet, results, setup.look)
                for plot in sheet:
                    plot.grid(results, setup.look)
        for claim in setup.claims:
            for one in (*claim.given, claim):
                _check(one, setup, results)
        if experiment.sentences is not None and set(arms) == set(setup.arms):
            with one_line("sentences"):
                experiment.sentences(results)


def _check(claim: Claim, setup: Setup, results: Results) -> None:
    with one_line(f"claim {claim.text!r}"):
        try:
            values = np.asarray(claim.effect(results), np.float64)
        except Missing:
            if set(results.arms) == set(setup.arms):
                raise
            return  # it may be one of the arms that were not asked for
        wanted = 2 if isinstance(claim, Exists) else 1
        if values.ndim != wanted or len(values) != 2:
            shape = "(seeds, settings)" if wanted == 2 else "(seeds,)"
            raise ValueError(f"expected one number a seed, {shape}, got shape {values.shape} for 2 seeds")
