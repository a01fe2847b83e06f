"""Composited places of cameras: what is in an image, and that they are the same everywhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pliant import data
from pliant.data import Dataset
from pliant.data.cameras import COMPOSITED, Cameras

SMALL = Cameras("small", "digits", "digits", side=12, places=3, num_train=40, num_test=30, sizes=(4, 6))


def one_colour(value: int, classes: int = 2) -> Dataset:
    """Items that are squares of one grey, a class each."""
    x, y = np.full((classes * 3, 1, 4, 4), value, np.uint8), np.arange(classes * 3) % classes
    return Dataset("squares", x, y, x, y, classes, 255.0, (0.0,), (1.0,))


def test_a_place_is_its_background_under_changing_light_with_items_pasted_into_it() -> None:
    found = replace(SMALL, num_train=60).compose(one_colour(255), one_colour(0))  # white squares on black
    assert (found.shape, found.num_classes, len(found.x_train), len(found.x_test)) == ((3, 12, 12), 3, 180, 90)  # type: ignore[arg-type]
    assert found.domain_train is not None
    for place in range(3):
        images, labels = (each[found.domain_train == place] for each in (found.x_train, found.y_train))
        assert (images[labels == 2] == 0).all()  # nothing is pasted
        lit = images[labels != 2].reshape(-1, 3, 144)
        assert (lit.max((1, 2)) > 20).all()
        assert (np.count_nonzero(lit[:, 0], axis=1) <= 8 * 8).all()  # an item of 6 x 6, and a blur of a pixel
        assert (np.count_nonzero(lit[:, 0], axis=1) >= 4 * 4).all()
    empty = replace(SMALL, places=8).compose(one_colour(0), one_colour(255))  # black squares on a uniform background
    assert empty.domain_train is not None
    shown = [empty.x_train[(empty.domain_train == place) & (empty.y_train == 2)] for place in range(8)]
    shown = [images for images in shown if len(images) > 5]
    assert len(shown) > 2
    for images in shown:
        light = images[:, 0, 0, 0].astype(int)
        assert (images.reshape(len(images), 3, -1).std(2) == 0).all()
        assert 0.6 * 0.15 * 255 - 1 <= light.min() < light.max()


def test_it_is_the_same_every_time_and_places_differ() -> None:
    first, again = (data.load("cameras-digits") for _ in range(2))
    assert (first.x_train == again.x_train).all()
    assert (first.y_test == again.y_test).all()
    shares = [np.bincount(first.y_train[first.domain_train == place], minlength=11) for place in range(4)]
    assert len({tuple(each.tolist()) for each in shares}) == 4
    assert max(each.max() for each in shares) > 20  # of 60: a long tail
    held_out = {image.tobytes() for image in first.x_test[first.y_test != 10]}  # type: ignore[index]
    assert not held_out & {image.tobytes() for image in first.x_train[first.y_train != 10]}  # of other items


def test_it_is_listed_with_what_it_is_made_of() -> None:
    listed = {info.name: info for info in data.available()}
    digits, cameras = listed["cameras-digits"], listed["cameras"]
    assert digits.cached
    assert not cameras.cached  # Fashion-MNIST and CIFAR-10 are not here
    assert cameras.licence == "those of fashion-mnist and cifar10"
    found = data.load("cameras-digits")
    assert digits.train_shape == found.x_train.shape
    assert digits.test_shape == found.x_test.shape  # type: ignore[union-attr]
    assert digits.num_classes == found.num_classes
    assert cameras.num_classes == digits.num_classes
    assert set(COMPOSITED) == {"cameras", "cameras-digits"}
    assert data.fetch("cameras-digits")
