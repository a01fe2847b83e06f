"""What holds for every task: a batch is a function of (seed, step), in any order and in any process."""

import dataclasses
import hashlib
import inspect
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import pliant.tasks
from pliant.data import Dataset
from pliant.tasks import BitFlipping, Domains, Growing, OffsetNoise, PermutedClasses, RandomLabels, Task, Waves
from pliant.tasks.base import draw
from tests.listed import assert_examples, assert_public
from tests.tasks.examples import EXAMPLES, data, registered

CLASSES = {"RandomLabels", "RandomLabels, a fraction", "RandomLabels, unequal", "Composite", "PermutedClasses"} | {
    "Growing, random labels"
}  # tasks that need classes
every_task = pytest.mark.parametrize("task", EXAMPLES.values(), ids=EXAMPLES)
SEEDS = [0, 1, 5]


def equal(a, b):
    return torch.equal(a.x, b.x) and torch.equal(a.y, b.y)


def who(x, dataset):
    """Which example a standardized image is, whatever the order of its pixels: its smallest value; bits as a number."""
    raw = ((x.double().flatten(-3) * dataset.std[0] + dataset.mean[0]) * 64).round().long()
    if ((raw == 0) | (raw == 64)).all():
        return (raw // 64 * 2 ** torch.arange(raw.shape[-1])).sum(-1)
    return raw.min(-1).values


def digest(task, seeds, order):
    """All batches of some steps, as one number; runs in a process of its own, too."""
    stream, found = task.bind(data(), seeds), hashlib.sha256()
    for step in order:
        for batch in stream.batches(step, step + 1):
            found.update(step.to_bytes(4, "little") + batch.x.numpy().tobytes() + batch.y.numpy().tobytes())
    return found.hexdigest()


def test_every_task_has_an_example():
    assert_examples(registered(), EXAMPLES.values(), "tests/tasks/examples.py")
    assert_public(registered())


@every_task
def test_a_batch_is_a_function_of_seed_and_step(task):
    stream, other = task.bind(data(), SEEDS), task.bind(data(), SEEDS)
    batches = list(stream.batches(0, task.num_steps))
    assert len(batches) == task.num_steps == 40
    for step in (39, 3, 12, 11, 0, 39, 25):
        (again,) = other.batches(step, step + 1)
        assert equal(again, batches[step])
    assert all(equal(a, b) for a, b in zip(other.batches(7, 33), batches[7:33], strict=True))
    assert list(stream.batches(5, 5)) == []


def test_a_fresh_process_draws_the_same():
    root, steps = Path(__file__).parents[2], [17, 3, 39, 0]
    code = f"""
from pliant.tasks import *
from tests.tasks.test_every_task import digest
for task in {list(EXAMPLES.values())!r}:
    print(digest(task, {SEEDS}, {steps}))
"""
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "77"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    drawn = dict(zip(EXAMPLES, done.stdout.split(), strict=True))
    assert drawn == {name: digest(task, SEEDS, steps) for name, task in EXAMPLES.items()}


@every_task
def test_seeds_differ_and_global_streams_are_left_alone(task):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    stream = task.bind(data(), [0, 1, 0])
    everything = stream.examples(0)
    assert not torch.equal(everything.x[0], everything.x[1])
    assert torch.equal(everything.x[0], everything.x[2])
    for batch in stream.batches(0, 12):
        assert not torch.equal(batch.x[0], batch.x[1])
        assert torch.equal(batch.x[0], batch.x[2])
        assert torch.equal(batch.y[0], batch.y[2])
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002


@every_task
def test_a_population_has_the_streams_of_its_seeds(task):
    together = task.bind(data(), SEEDS)
    alone = [task.bind(data(), [seed]) for seed in SEEDS]
    streams = zip(together.batches(0, 40), *(stream.batches(0, 40) for stream in alone), strict=True)
    for crowd, *members in streams:
        for m, member in enumerate(members):
            assert torch.equal(crowd.x[m], member.x[0])
            assert torch.equal(crowd.y[m], member.y[0])
    for m, stream in enumerate(alone):
        assert torch.equal(together.examples(2).y[m], stream.examples(2).y[0])


@every_task
@pytest.mark.parametrize("size", [1, 6, 20])
def test_epochs_cover_all_examples_once(task, size):
    """Also where a batch straddles two epochs; and two epochs have different orders."""
    if isinstance(task, Growing):
        task = replace(task, begin=20)
    task = replace(task, batch_size=size, every=1000)
    dataset = data()
    stream = task.bind(dataset, SEEDS)
    steps = -(-3 * 20 // size)
    seen = torch.cat([who(batch.x, dataset) for batch in stream.batches(0, steps)], dim=1)
    for m in range(len(SEEDS)):
        epochs = [seen[m, 20 * e : 20 * (e + 1)] for e in range(3)]
        own = sorted(who(stream.examples(0).x[m], dataset).tolist())
        assert len(set(own)) == 20
        assert all(sorted(epoch.tolist()) == own for epoch in epochs)
        assert not torch.equal(epochs[0], epochs[1])
        assert not torch.equal(epochs[1], epochs[2])


@every_task
def test_examples_keep_their_targets_within_a_task(task):
    dataset = data()
    stream = task.bind(dataset, SEEDS)
    for index in range(task.num_tasks):
        x, y = stream.examples(index)
        assert x.shape == (3, task.size(index), 2, 3, 4)
        first = stream.examples(index, most=5)
        assert torch.equal(first.x, x[:, :5])
        assert torch.equal(first.y, y[:, :5])
        for m in range(3):
            pairs = dict(zip(who(x[m], dataset).tolist(), y[m].tolist(), strict=True))
            begun = task.ends[index - 1] if index else 0
            for batch in stream.batches(begun, task.ends[index]):
                for example, target in zip(who(batch.x[m], dataset).tolist(), batch.y[m].tolist(), strict=True):
                    assert pairs[example] == target


@every_task
def test_something_changes_at_a_switch_and_nothing_between(task):
    stream = task.bind(data(), SEEDS)
    tasks = [stream.examples(index) for index in range(task.num_tasks)]
    for before, after in itertools.pairwise(tasks):
        assert equal(before, after) == (type(task) is Task)
    for index, end in enumerate(task.ends):
        assert task.place(end - 1)[0] == index
        assert task.place(end) == (index + 1, 0)
    assert task.place(0) == (0, 0)


@every_task
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_stay_raw_until_a_batch_is_drawn(task, dtype):
    stream = task.bind(data(size=200), SEEDS, dtype=dtype)
    assert stream._pool.dtype is torch.uint8
    assert len(stream._pool) <= 60  # what no seed keeps is not held
    batch = next(stream.batches(0, 1))
    assert batch.x.dtype is dtype
    assert batch.y.dtype is (dtype if isinstance(task, (BitFlipping, OffsetNoise, Waves)) else torch.int64)
    assert batch.x.shape == (3, 6, 2, 3, 4)


@every_task
def test_batches_are_the_same_where_inputs_are_not_kept(task, monkeypatch):
    kept = list(task.bind(data(), SEEDS).batches(0, task.num_steps))
    monkeypatch.setattr("pliant.tasks.base.AT_HAND", 0)
    for batch, other in zip(kept, task.bind(data(), SEEDS).batches(0, task.num_steps), strict=True):
        assert equal(batch, other)


def test_inputs_are_standardized_once():
    dataset = data()
    x, y = EXAMPLES["Task"].bind(dataset, SEEDS, dtype=torch.float64).examples(0)
    other = replace(dataset, mean=(0.4, 0.7), std=(0.2, 0.5))
    x_other, _ = EXAMPLES["Task"].bind(other, SEEDS, dtype=torch.float64).examples(0)
    for m in range(3):
        rows = who(x[m], dataset).numpy()
        raw = torch.from_numpy(dataset.x_train[rows].copy())
        assert torch.equal(x[m], dataset.standardize(raw, torch.float64))
        assert torch.equal(x_other[m], other.standardize(raw, torch.float64))
        assert y[m].tolist() == dataset.y_train[rows].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in CLASSES])
def test_regression_targets_have_the_dtype_of_the_inputs(name, dtype):
    batch = next(EXAMPLES[name].bind(data(regression=True), SEEDS, dtype=dtype).batches(0, 1))
    assert batch.x.dtype is batch.y.dtype is dtype


def test_each_seed_draws_its_own_examples_uniformly():
    """Over many seeds every example is kept about equally often."""
    dataset, task = data(), replace(EXAMPLES["Task"], num_examples=10)
    kept = who(task.bind(dataset, list(range(400))).examples(0).x, dataset).flatten()
    counts = torch.bincount(kept, minlength=40)
    assert counts.sum() == 4000
    assert 60 < counts.min() <= counts.max() < 140  # 100 expected, deviation 8.7


@pytest.mark.parametrize("kind", registered(), ids=lambda kind: kind.__name__)
def test_refuses_sizes_that_do_not_fit(kind):
    sizes = {"num_examples": 20, "batch_size": 6, "every": 10, "num_tasks": 4}
    sizes |= {"begin": 20} if kind is Growing else {"flipping": 4} if kind is BitFlipping else {}
    for name in ("num_examples", "batch_size", "every", "num_tasks"):
        for bad in (0, -1):
            with pytest.raises(ValueError, match=f"expected {name} to be at least 1, got {bad}"):
                kind(**{**sizes, name: bad})
    with pytest.raises(ValueError, match="expected batch_size to be at most num_examples=20, got 21"):
        kind(**{**sizes, "batch_size": 21})
    kind(**{**sizes, "batch_size": 20})
    sizes |= {"begin": 40} if kind is Growing else {}
    with pytest.raises(ValueError, match="to be at most 40, the size of counting, got 41: write num_examples=40"):
        kind(**{**sizes, "num_examples": 41}).bind(data(), SEEDS)
    most = 20 if kind is Domains else 40  # in each of two
    kind(**{**sizes, "num_examples": most}).bind(data(), SEEDS)


@every_task
def test_is_a_frozen_dataclass_that_is_its_own_config(task):
    assert eval(repr(task), vars(pliant.tasks)) == task
    assert type(task)(**dataclasses.asdict(task)) == task
    assert hash(replace(task)) == hash(task)
    assert replace(task, every=7) != task
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.every = 3
    assert ">>> " in inspect.getdoc(type(task))


def test_a_long_run_forgets_old_epochs_and_draws_the_same():
    task = replace(EXAMPLES["Task"], batch_size=20, every=1000)
    stream, other = task.bind(data(), [0]), task.bind(data(), [0])
    batches = list(stream.batches(0, 300))
    assert len(stream._epochs) <= 70
    for step in (299, 0, 64, 65, 130):
        assert equal(next(other.batches(step, step + 1)), batches[step])
        assert equal(next(stream.batches(step, step + 1)), batches[step])


def test_vectors_and_floats_are_inputs_too():
    x = np.linspace(0, 1, 200, dtype=np.float32).reshape(40, 5)
    halves = np.arange(40) // 20
    dataset = Dataset("vectors", x, np.arange(40) % 3, None, None, 3, 1.0, (0.5,) * 5, (0.3,) * 5, halves)
    for task in EXAMPLES.values():
        assert next(task.bind(dataset, SEEDS).batches(0, 1)).x.shape == (3, 6, 5)


def test_tasks_of_unequal_length_follow_each_other():
    task = EXAMPLES["OffsetNoise, unequal"]
    assert task.ends == (25, 30, 37, 40)
    stream = task.bind(data(), SEEDS)
    means = [batch.y.mean().item() for batch in stream.batches(0, 40)]
    for step, mean in enumerate(means):
        assert mean == pytest.approx(task.offset[task.place(step)[0]], abs=1.5)
    with pytest.raises(ValueError, match="expected every to have one length for each of 3 tasks"):
        replace(task, num_tasks=3)
    with pytest.raises(ValueError, match="expected an offset for each of 4 tasks"):
        replace(task, offset=(1.0,))


def test_growing_data_keep_what_they_have_and_every_epoch_covers_it():
    task, dataset = EXAMPLES["Growing"], data()
    stream = task.bind(dataset, SEEDS)
    assert [task.size(index) for index in range(4)] == [8, 12, 16, 20]
    for m in range(3):
        sets = [set(who(stream.examples(index).x[m], dataset).tolist()) for index in range(4)]
        assert [len(one) for one in sets] == [8, 12, 16, 20]
        assert sets[0] < sets[1] < sets[2] < sets[3]
        seen = torch.cat([who(batch.x[m], dataset) for batch in stream.batches(20, 30)])[: 3 * 16].reshape(3, 16)
        assert all(set(epoch.tolist()) == sets[2] for epoch in seen)
        x, y = stream.examples(2)
        assert y[m].tolist() == [dataset.y_train[i] for i in who(x[m], dataset).tolist()]
    with pytest.raises(ValueError, match="expected begin to be from batch_size=6 to num_examples=20, got 5"):
        replace(task, begin=5)


@pytest.mark.parametrize("random", [False, True])
def test_growing_beyond_the_data_is_refused_bound_or_not(random):
    task, message = Growing(41, 6, 10, 4, begin=6, random=random), "num_examples to be at most 40, the size of count"
    for ask in (lambda: task.bind(data(), [0]), lambda: task.examples(data(), 0, 3)):
        with pytest.raises(ValueError, match=message):
            ask()


def test_a_warm_start_is_half_of_the_data_then_all_of_them():
    task, dataset = Growing.warm_start(num_examples=40, batch_size=10, every=8), data()
    half, whole = (task.examples(dataset, 3, index) for index in (0, 1))
    assert (len(half.rows), len(whole.rows), task.num_tasks) == (20, 40, 2)
    assert np.array_equal(half.rows, whole.rows[:20])
    assert np.array_equal(whole.targets, dataset.y_train[whole.rows])


def test_growing_random_labels_stay_and_are_not_the_true_ones():
    task, dataset = EXAMPLES["Growing, random labels"], data(size=4000)
    task = replace(task, num_examples=4000)
    tasks = [task.examples(dataset, 5, index) for index in range(4)]
    for before, after in itertools.pairwise(tasks):
        assert np.array_equal(after.targets[: len(before.targets)], before.targets)
    true = dataset.y_train[tasks[-1].rows]
    assert (tasks[-1].targets == true).mean() == pytest.approx(1 / 7, abs=0.03)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_tasks_with_classes_refuse_regression_data(name):
    with pytest.raises(ValueError, match="regression data set"):
        EXAMPLES[name].bind(data(regression=True), SEEDS)


def test_permuted_classes_rename_all_examples_of_a_class_alike():
    task, dataset = replace(EXAMPLES["PermutedClasses"], num_examples=40, num_tasks=200), data()
    names = []
    for index in range(200):
        found = task.examples(dataset, 2, index)
        renamed = dict(zip(dataset.y_train[found.rows].tolist(), found.targets.tolist(), strict=True))
        assert [renamed[int(y)] for y in dataset.y_train[found.rows]] == found.targets.tolist()
        assert sorted(renamed.values()) == list(range(7))
        names.append([renamed[c] for c in range(7)])
    counts = np.array([np.bincount(column, minlength=7) for column in np.array(names).T])
    assert (np.abs(counts - 200 / 7) < 25).all()  # uniform: 28.6 expected, deviation 4.9


def test_one_class_cannot_be_permuted():
    one = replace(data(), y_train=np.zeros(40, np.int64), num_classes=1)
    with pytest.raises(ValueError, match="expected two classes or more to permute, got 1 in counting"):
        PermutedClasses(num_examples=20, batch_size=6, every=10, num_tasks=4).bind(one, [0])


def test_composite_changes_labels_and_positions_together():
    task, dataset = EXAMPLES["Composite"], data()
    first, second = (task.examples(dataset, 1, index) for index in (0, 1))
    labels = RandomLabels(num_examples=20, batch_size=6, every=10, num_tasks=4)
    for index, found in ((0, first), (1, second)):
        assert np.array_equal(found.targets, labels.examples(dataset, 1, index).targets)
        assert sorted(found.positions) == list(range(24))
    assert not np.array_equal(first.positions, second.positions)


def test_one_shared_bit_flips_at_a_switch_and_targets_are_those_of_threshold_units():
    task, dataset = replace(EXAMPLES["BitFlipping"], width=40), data()
    tasks = [task.examples(dataset, 4, index) for index in range(4)]
    for before, after in itertools.pairwise(tasks):
        changed = (before.inputs != after.inputs).reshape(20, 24)
        assert (changed.sum(1) == 1).all()
        assert (changed == changed[0]).all()
        assert changed[0].argmax() < 4
    generator = draw(4, "threshold units")
    into, out = 1 - 2 * generator.integers(0, 2, (25, 40)), 1 - 2 * generator.integers(0, 2, 40)
    for image, target in zip(tasks[2].inputs, tasks[2].targets, strict=True):
        bits = [int(value == 64) for value in image.ravel()] + [1]
        total = 0
        for j in range(40):
            activation = sum(bit * int(weight) for bit, weight in zip(bits, into[:, j], strict=True))
            total += int(out[j]) * (activation > 0.7 * 25 - sum(int(weight) == -1 for weight in into[:, j]))
        assert target == total
    assert len({float(t) for t in task.examples(dataset, 4, 0).targets}) > 1
    with pytest.raises(ValueError, match="expected flipping to be below 24, the input positions of counting, got 24"):
        replace(task, flipping=24).bind(dataset, [0])
    with pytest.raises(ValueError, match="expected flipping to be at least 1, got 0"):
        replace(task, flipping=0)


@pytest.mark.parametrize("make", [
    lambda offset: OffsetNoise(20, 6, 10, 4, offset=offset),
    lambda offset: Waves(20, 6, 10, 4, offset=offset),
])  # fmt: skip
@pytest.mark.parametrize("offset", [1e6, -1e8, (0.0, 1.0, 2.0, 1e30), 1e300, math.inf, math.nan])
def test_offsets_that_float32_rounds_the_targets_away_around_are_refused(make, offset):
    with pytest.raises(ValueError, match=r"expected offsets that leave float32 room .* a phase error of .* rad"):
        make(offset)
    make(1e5)  # rounding moves a target by 0.004


def test_a_sine_that_float64_cannot_tell_is_refused():
    with pytest.raises(ValueError, match=r"expected a frequency whose sine float64 can tell, got 1e\+15: .* rad"):
        Waves(20, 6, 10, 4, frequency=1e15)
    assert OffsetNoise.growing(6.0, num_examples=20, batch_size=6, every=10, num_tasks=4).offset == (0, 2, 4, 6)


def test_waves_are_sines_of_a_network_of_the_inputs():
    task, dataset = EXAMPLES["Waves"], data()
    examples = task.examples(dataset, seed=5, task=2)
    x = (dataset.x_train[examples.rows].reshape(20, 2, 12) / 64 - 0.4) / 0.2
    generator = draw(5, "waves", 2)
    into = generator.standard_normal((24, 8)) * np.sqrt(2 / 24)
    out = generator.standard_normal((8, 2)) * np.sqrt(2 / 8)
    expected = [
        [np.sin(sum(max(0, row.ravel() @ into[:, j]) * out[j, k] for j in range(8))) for k in (0, 1)] for row in x
    ]
    np.testing.assert_allclose(examples.targets, expected, rtol=1e-4, atol=1e-5)
    faster = replace(task, frequency=1e5).examples(dataset, 5, 2).targets
    assert np.std(faster) == pytest.approx(np.sqrt(0.5), abs=0.15)


@dataclass(frozen=True)
class Own(Task):
    """Labels that some function makes of the data's."""

    change: Callable[[np.ndarray], np.ndarray] = lambda labels: labels

    def examples(self, data, seed, task, previous=None):
        given = super().examples(data, seed, task, previous)
        return given._replace(targets=self.change(given.targets))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels: labels[:3], "expected a target a row from Own.examples, 20, got 3"),
        (lambda labels: labels + 7, r"expected labels 0\.\.6 from Own.examples, got \d+ to 13"),
        (lambda labels: labels - 1, r"expected labels 0\.\.6 from Own.examples, got -1 to"),
    ],
)
def test_a_task_of_ones_own_that_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        Own(20, 6, 10, 4, change).bind(data(), [0])
    assert Own(20, 6, 10, 4, lambda labels: labels / 2).bind(data(), [0]).y.dtype == torch.float32
