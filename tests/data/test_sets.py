"""The data sets by name: their content, and the order in which their files are looked for."""

import gzip
import struct
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from pyconv.data import load, sets


def write(folder, value=0, images=4, test_images=2, pack=gzip.compress, suffix=".gz"):
    """A data set of small images whose pixels are all `value`."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", images), ("t10k", test_images)):
        pixels = struct.pack(">4B3I", 0, 0, 8, 3, count, 6, 5) + bytes([value]) * (count * 30)
        labels = struct.pack(">4BI", 0, 0, 8, 1, count) + bytes(i % 10 for i in range(count))
        (folder / f"{part}-images-idx3-ubyte{suffix}").write_bytes(pack(pixels))
        (folder / f"{part}-labels-idx1-ubyte{suffix}").write_bytes(pack(labels))
    return folder


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Each place of the search order, empty and away from the machine's own; the network is cut off."""

    class NoNetwork:
        @staticmethod
        def retrieve(url, *args, **kwargs):
            raise OSError("no network")

    monkeypatch.setitem(sys.modules, "pooch", NoNetwork)
    monkeypatch.setattr(sets, "SYSTEM", tmp_path / "system")
    monkeypatch.setattr(sets, "_cache", lambda: tmp_path / "cache")
    monkeypatch.setenv("PYCONV_DATA", str(tmp_path / "variable"))
    return tmp_path


def test_digits_are_scikit_learns_split_by_a_fixed_rule():
    train, test = load("digits")
    theirs = load_digits()
    seen = np.zeros(10, int)
    chosen = np.zeros(1797, bool)
    for i, digit in enumerate(theirs.target):
        seen[digit] += 1
        chosen[i] = seen[digit] % 5 == 0
    np.testing.assert_array_equal(test.images[:, 0] * 16, theirs.images[chosen])
    np.testing.assert_array_equal(train.labels, theirs.target[~chosen])
    assert train.images.dtype == np.float32 and train.images.shape == (1442, 1, 8, 8)
    assert train.images.min() == 0 and train.images.max() == 1
    assert train.classes == tuple("0123456789") and train.name == "digits"
    assert set(np.bincount(test.labels)) <= {34, 35, 36}


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_search_order(places, name):
    with pytest.raises(FileNotFoundError):
        load(name)
    for value, folder in enumerate(("cache", "system", "variable"), 1):
        write(places / folder / name, value)
        assert load(name)[0].images[0, 0, 0, 0] * 255 == pytest.approx(value)
    write(places / "mine", 9)
    train, test = load(name, places / "mine")
    assert train.images[0, 0, 0, 0] * 255 == pytest.approx(9)
    assert train.images.shape == (4, 1, 6, 5) and len(test) == 2 and len(train.classes) == 10


@pytest.mark.parametrize("inside", ["", "mnist", "MNIST/raw"])
def test_data_dir_may_hold_the_files_or_a_folder_with_them(places, inside):
    write(places / "mine" / inside, 7, pack=bytes, suffix="")
    assert load("mnist", str(places / "mine"))[0].images.max() * 255 == pytest.approx(7)


def test_a_data_dir_without_the_files_is_an_error_even_if_they_are_elsewhere(places):
    write(places / "cache" / "mnist")
    write(places / "half")
    (places / "half" / "t10k-labels-idx1-ubyte.gz").unlink()
    for folder in (places / "half", places / "nowhere"):
        with pytest.raises(FileNotFoundError, match="data_dir must have the files train-images"):
            load("mnist", folder)


def test_without_a_network_the_error_names_the_choices(places):
    with pytest.raises(FileNotFoundError) as error:
        load("fashion-mnist")
    for choice in (
        "--data-dir",
        "$PYCONV_DATA",
        "dataset-fashion-mnist",
        str(places / "cache"),
        "no network",
    ):
        assert choice in str(error.value)


def test_without_pooch_the_error_names_the_extra(places, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(FileNotFoundError, match=r"pip install 'pyconv\[data\]'.*--data-dir"):
        load("mnist")


def test_download_tries_every_mirror_with_the_checksum(places, monkeypatch):
    asked = []

    class Pooch:
        @staticmethod
        def retrieve(url, known_hash, fname, path):
            asked.append(url)
            assert known_hash.startswith("sha256:") and len(known_hash) == 71
            if url.startswith(sets.MIRRORS["mnist"][0]):
                raise ValueError("the hash does not match")
            write(path, 5)
            return str(path / fname)

    monkeypatch.setitem(sys.modules, "pooch", Pooch)
    assert load("mnist")[0].images.max() * 255 == pytest.approx(5)
    assert len(asked) == 8
    assert load("mnist")[0] and len(asked) == 8  # now in the cache


def test_wrong_contents_name_the_file(places):
    folder = write(places / "mine")
    path = folder / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, 3) + bytes(3)))
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte.gz: .*one entry per image"):
        load("mnist", folder)
    path.write_bytes(gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, 2) + bytes([3, 10])))
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte.gz: .*less than 10.*3 to 10"):
        load("mnist", folder)
    path.write_bytes((folder / "t10k-images-idx3-ubyte.gz").read_bytes())
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte.gz: must have 1 dimension"):
        load("mnist", folder)


def test_unknown_name():
    with pytest.raises(ValueError, match="name must be one of digits, mnist, fashion-mnist; got 'cifar'"):
        load("cifar")
