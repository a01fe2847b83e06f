"""Domains: which examples a place has, in which order places come, and what is held out."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from pliant.data import load
from pliant.tasks import Domains
from pliant.tasks.base import Task
from tests.tasks.examples import data

PLACES = Domains(num_examples=9, batch_size=3, every=4, num_tasks=4, num_held_out=5)


@pytest.fixture(scope="module")
def cameras():
    return load("cameras-digits")


def test_each_task_is_a_place_and_each_seed_has_an_order_of_its_own(cameras):
    orders = set()
    for seed in range(20):
        tasks = [PLACES.examples(cameras, seed, task) for task in range(4)]
        places = [np.unique(cameras.domain_train[one.rows]) for one in tasks]
        assert all(len(place) == 1 for place in places)
        assert sorted(int(place[0]) for place in places) == [0, 1, 2, 3]
        orders.add(tuple(int(place[0]) for place in places))
        for one, place in zip(tasks, places, strict=True):
            assert len(set(one.rows.tolist())) == 9
            assert len(set(one.held_out.tolist())) == 5
            assert (cameras.domain_test[one.held_out] == place).all()
            assert (one.targets == cameras.y_train[one.rows]).all()
    assert len(orders) > 10


def test_held_out_examples_are_those_of_the_test_set_standardised(cameras):
    stream = PLACES.bind(cameras, [0, 3])
    for task in (2, 0):
        x, y = stream.held_out(task, most=4)
        rows = np.stack([PLACES.examples(cameras, seed, task).held_out[:4] for seed in (0, 3)])
        assert torch.equal(x, cameras.standardize(torch.from_numpy(cameras.x_test[rows])))
        assert (y.numpy() == cameras.y_test[rows]).all()


def test_more_tasks_than_places_visit_them_again(cameras):
    task = replace(PLACES, num_tasks=6)
    assert (task.examples(cameras, 1, 5).rows == task.examples(cameras, 1, 1).rows).all()


def test_what_a_data_set_lacks_is_said(cameras):
    with pytest.raises(ValueError, match="expected a data set with domains, such as cameras or iwildcam, got digits"):
        PLACES.bind(load("digits"), [0])
    with pytest.raises(ValueError, match="num_examples to be at most 60, as many as each domain of cameras-digits has"):
        replace(PLACES, num_examples=61).bind(cameras, [0])
    with pytest.raises(ValueError, match="num_held_out to be at most 30, as many as each domain"):
        replace(PLACES, num_held_out=31).bind(cameras, [0])
    with pytest.raises(ValueError, match="expected a data set with a test set of each domain, got counting"):
        PLACES.bind(data(), [0])
    with pytest.raises(ValueError, match=re.escape("such as Domains(num_held_out=100), got Task(")):
        Task(9, 3, 4, 4).bind(cameras, [0]).held_out(0)
    with pytest.raises(ValueError, match="num_held_out to be at least 0, got -1"):
        replace(PLACES, num_held_out=-1)
