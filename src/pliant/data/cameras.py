"""Places of cameras, composited from image sets that can be had: a stand-in for a natural shift, and not one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pliant.data.dataset import Dataset, channel_moments

PRIOR = 0.3  # of the Dirichlet distribution of a place's classes: long-tailed
NIGHT = (0.15, 0.5)  # of a place's light at night, the day's being 1
BLUR = 1.0  # pixels, at most
TINT = 0.6  # the least share of a colour that a place lets through


@dataclass(frozen=True)
class Cameras:
    """What a composited data set is made of.

    A place has a background (one image of a set), a tint, a blur, a curve of light over the day, and shares of classes
    drawn from a Dirichlet distribution. An image is an item of another set pasted into the background, at a place, in a
    size and at an hour of its own; or nothing, which is a class, too (the last). Test images show items of the items'
    test set.

    Args:
        name: of the data set.
        items: the data set of what is pasted.
        backgrounds: the data set of what it is pasted into.
        side: of the images, which are RGB.
        places: how many.
        num_train: images a place.
        num_test: images a place, held out.
        sizes: the smallest and the largest side of an item.
    """

    name: str
    items: str
    backgrounds: str
    side: int
    places: int
    num_train: int
    num_test: int
    sizes: tuple[int, int]

    def compose(self, items: Dataset, backgrounds: Dataset) -> Dataset:
        """The data set, the same everywhere: nothing of it is fetched or stored."""
        assert items.x_test is not None
        assert items.y_test is not None
        assert items.num_classes is not None
        made: dict[str, list[Any]] = {"train": [], "test": []}
        for place in range(self.places):
            generator = np.random.default_rng([*b"camera", place])
            shown = _Place.drawn(self, backgrounds, items.num_classes, generator)
            for part, number, x, y in (
                ("train", self.num_train, items.x_train, items.y_train),
                ("test", self.num_test, items.x_test, items.y_test),
            ):
                made[part].append(shown.images(self, number, x, y, items.scale, generator))
        x_train, y_train, x_test, y_test = (
            np.concatenate([one[at] for one in made[part]]) for part in ("train", "test") for at in (0, 1)
        )
        train, test = (np.repeat(np.arange(self.places), n) for n in (self.num_train, self.num_test))
        mean, std = channel_moments(x_train, 255.0)
        return Dataset(
            self.name, x_train, y_train, x_test, y_test, items.num_classes + 1, 255.0, mean, std, train, test
        )


@dataclass(frozen=True)
class _Place:
    """A place: its background in 0 to 1, (side, side, 3), shares of classes, light at night, blur in pixels."""

    background: np.ndarray
    prior: np.ndarray
    night: float
    blur: float

    @classmethod
    def drawn(cls, settings: Cameras, backgrounds: Dataset, num_classes: int, generator: np.random.Generator) -> _Place:
        from PIL import Image

        picked = backgrounds.x_train[generator.integers(len(backgrounds.x_train))] / backgrounds.scale
        image = Image.fromarray(
            np.round(255 * np.broadcast_to(picked, (3, *picked.shape[1:]))).astype(np.uint8).transpose(1, 2, 0)
        )
        enlarged = np.asarray(image.resize((settings.side, settings.side), Image.Resampling.BILINEAR)) / 255
        tint = generator.uniform(TINT, 1, 3)
        prior = generator.dirichlet(np.full(num_classes + 1, PRIOR))
        return cls(enlarged * tint, prior, float(generator.uniform(*NIGHT)), float(generator.uniform(0, BLUR)))

    def images(
        self, settings: Cameras, number: int, x: np.ndarray, y: np.ndarray, scale: float, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """So many images, uint8 (number, 3, side, side), and their classes."""
        from PIL import Image, ImageFilter

        empty = len(self.prior) - 1
        labels = generator.choice(len(self.prior), number, p=self.prior)
        out = np.empty((number, 3, settings.side, settings.side), np.uint8)
        of = [np.flatnonzero(y == label) for label in range(empty)]
        for at, label in enumerate(labels):
            scene = self.background
            if label != empty:
                item = x[of[label][generator.integers(len(of[label]))]].max(0)
                size = int(generator.integers(settings.sizes[0], settings.sizes[1] + 1))
                top, left = generator.integers(0, settings.side - size + 1, 2)
                image = Image.fromarray(np.round(255 / scale * item).astype(np.uint8))
                opaque = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))[..., None] / 255
                scene = scene.copy()
                part = scene[top : top + size, left : left + size]
                part += opaque * (generator.uniform(0.5, 1) - part)
            light = self.night + (1 - self.night) * max(0.0, np.sin(2 * np.pi * generator.random()))
            seen = Image.fromarray(np.round(255 * light * scene).astype(np.uint8))
            out[at] = np.asarray(seen.filter(ImageFilter.BoxBlur(self.blur))).transpose(2, 0, 1)
        return out, labels.astype(np.int64)


COMPOSITED = {
    made.name: made
    for made in (
        Cameras("cameras", "fashion-mnist", "cifar10", side=32, places=20, num_train=400, num_test=200, sizes=(14, 24)),
        Cameras("cameras-digits", "digits", "digits", side=16, places=4, num_train=60, num_test=30, sizes=(8, 12)),
    )
}
