"""Data sets of arrays, batches, and augmentation."""

import numpy as np
import pytest

from pyconv.data import Dataset, Loader, RandomCrop, RandomHorizontalFlip

IMAGES = np.arange(10 * 2 * 3 * 4, dtype=np.float32).reshape(10, 2, 3, 4)
LABELS = np.arange(10) % 4
DATA = Dataset(IMAGES, LABELS)


def test_integer_and_bool_images_are_scaled():
    pixels = np.array([0, 51, 255], np.uint8).reshape(3, 1, 1, 1)
    scaled = Dataset(pixels, np.zeros(3, int)).images
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled.ravel(), np.array([0, 0.2, 1], np.float32))
    assert Dataset(pixels > 99, np.zeros(3, np.uint8)).images.ravel().tolist() == [0, 0, 1]
    assert Dataset(IMAGES, LABELS).images is IMAGES
    assert Dataset(IMAGES.astype(np.float64), LABELS).images.dtype == np.float64
    assert DATA.classes == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    "images, labels, classes, error, message",
    [
        (IMAGES[0], LABELS, (), ValueError, "images must have 4 dimensions"),
        (IMAGES.astype(complex), LABELS, (), TypeError, "images must be float32"),
        (IMAGES, LABELS[:9], (), ValueError, "one entry per image"),
        (IMAGES, LABELS * 1.0, (), TypeError, "labels must be integers; got float64"),
        (IMAGES, LABELS, "abc", ValueError, "less than 3, .* got 0 to 3"),
        (IMAGES, LABELS - 1, "abcd", ValueError, "at least 0"),
    ],
)
def test_dataset_errors(images, labels, classes, error, message):
    with pytest.raises(error, match=message):
        Dataset(images, labels, classes)


@pytest.mark.parametrize("batch_size, drop_last, sizes", [
    (3, False, [3, 3, 3, 1]), (3, True, [3, 3, 3]), (10, True, [10]), (99, False, [10]), (99, True, []),
])  # fmt: skip
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches(batch_size, drop_last, sizes, shuffle):
    loader = Loader(DATA, batch_size, shuffle=shuffle, drop_last=drop_last)
    batches = list(loader)
    assert [len(images) for images, _ in batches] == sizes and len(loader) == len(sizes)
    for images, labels in batches:
        np.testing.assert_array_equal(LABELS[(images[:, 0, 0, 0] / 24).astype(int)], labels)
        assert np.shares_memory(images, IMAGES) != shuffle
    if sum(sizes) == 10 and shuffle:
        assert set(np.concatenate([images[:, 0, 0, 0] for images, _ in batches])) == set(IMAGES[:, 0, 0, 0])


def test_the_seed_decides_the_order():
    def orders(generator):
        loader = Loader((IMAGES, LABELS), 4, shuffle=True, generator=generator)
        return [np.concatenate([images[:, 0, 0, 0] for images, _ in loader]) for _ in range(2)]

    first, second = orders(5)
    np.testing.assert_array_equal(orders(np.random.default_rng(5)), [first, second])
    assert (first != second).any() and (orders(6)[0] != first).any()


@pytest.mark.parametrize("arguments, error, message", [
    ((IMAGES, 4), TypeError, "dataset must be a Dataset or a pair"),
    ((DATA, 0), ValueError, "batch_size must be at least 1; got 0"),
    ((DATA, 1.5), TypeError, "batch_size must be an int; got float"),
])  # fmt: skip
def test_loader_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        Loader(*arguments)


@pytest.mark.parametrize("call, error, message", [
    (lambda: Loader(DATA, generator="a"), TypeError, "Loader: generator must be a numpy.random.Generator .* got 'a'"),
    (lambda: Loader(DATA, generator=-1), ValueError, "Loader: generator must be .* an int of at least 0; got -1"),
    (lambda: Loader(DATA, augment="flip"), TypeError, "Loader: augment must be a callable or .*; got 'flip'"),
    (lambda: Loader(DATA, augment=[RandomCrop(1), 3]), TypeError, "Loader: augment must be a callable .*, 3]"),
    (lambda: Loader(DATA, augment=3), TypeError, "Loader: augment must be a callable or .*; got 3"),
    (lambda: RandomHorizontalFlip("a"), TypeError, "RandomHorizontalFlip: p must be a number; got str"),
    (lambda: RandomHorizontalFlip(2), ValueError, "RandomHorizontalFlip: p must be between 0 and 1; got 2"),
])  # fmt: skip
def test_options_are_checked(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_random_crop_moves_whole_images():
    images = np.zeros((200, 1, 5, 5), np.float32)
    images[:, 0, 2, 2] = 1
    moved = RandomCrop(2)(images, np.random.default_rng(0))
    assert moved.shape == images.shape and (moved.sum((1, 2, 3)) == 1).all()
    assert moved.sum(0).astype(bool).all()  # every place occurs
    np.testing.assert_array_equal(RandomCrop(0)(images, np.random.default_rng(0)), images)


def test_random_flip():
    flipped = RandomHorizontalFlip()(IMAGES, np.random.default_rng(0))
    mirrored = (flipped == IMAGES[..., ::-1]).all((1, 2, 3))
    assert 0 < mirrored.sum() < 10 and ((flipped == IMAGES).all((1, 2, 3)) != mirrored).all()
    np.testing.assert_array_equal(RandomHorizontalFlip(0)(IMAGES, np.random.default_rng(0)), IMAGES)


def test_augmentation_is_seeded_and_leaves_the_data_alone():
    before = IMAGES.copy()

    def epoch():
        augment = [RandomCrop(1), RandomHorizontalFlip()]
        return np.concatenate([x for x, _ in Loader(DATA, 4, generator=3, augment=augment)])

    np.testing.assert_array_equal(epoch(), epoch())
    assert (epoch() != IMAGES).any()
    np.testing.assert_array_equal(IMAGES, before)
