"""The data sets by name, and where their files are looked for."""

import os
from pathlib import Path

import numpy as np

from pyconv.data.dataset import Dataset
from pyconv.data.idx import read_idx

DIGITS = tuple("0123456789")
CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
DATASETS = ("digits", "mnist", "fashion-mnist")
"""The names that `load` knows."""

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
SYSTEM = Path("/usr/share/datasets")  # where Debian's package dataset-fashion-mnist puts its files
TORCHVISION = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw"}  # its folders below `root`
MIRRORS = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ),
    "fashion-mnist": (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
}
SHA256 = {  # of FILES with .gz, as their authors published them
    "mnist": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    "fashion-mnist": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
}


def load(name, data_dir=None):
    """Load a data set: its training part and its test part.

    Parameters
    ----------
    name : {"digits", "mnist", "fashion-mnist"}
        "digits" is inside the package: 1,797 images of 8x8 (UCI optical digits, CC BY 4.0). Its test
        part is every fifth image of each digit, in the file's order, so that the writers are in both.
        The other two have 60,000 + 10,000 images of 28x28, and their files are looked for in
        `data_dir`, ``$PYCONV_DATA``, /usr/share/datasets, and the user's cache; then downloaded there.
    data_dir : path-like, optional
        The folder with the four IDX files, plain or gzip, or one with a folder `name` that has them.
        Where it is given, nowhere else is looked.

    Returns
    -------
    (Dataset, Dataset)

    Raises
    ------
    ValueError
        Where the name is unknown, or a file is damaged; the message names the file.
    FileNotFoundError
        Where the files are nowhere and can't be downloaded; the message says where they may be put.

    Examples
    --------
    >>> import pyconv.data
    >>> pyconv.data.load("digits")
    (Dataset('digits': 1442 images of 1x8x8, 10 classes), Dataset('digits': 355 images of 1x8x8, 10 classes))
    """
    if name not in DATASETS:
        raise ValueError(f"load: name must be one of {', '.join(DATASETS)}; got {name!r}")
    return _load_digits() if name == "digits" else _load_idx(name, data_dir)


def _load_digits():
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]
    images = images[:, None].astype(np.float32) / np.float32(16)
    test = np.zeros(len(labels), bool)
    for digit in range(10):
        test[np.flatnonzero(labels == digit)[4::5]] = True
    return tuple(Dataset(images[part], labels[part], DIGITS, "digits") for part in (~test, test))


def _load_idx(name, data_dir):
    paths = find(name, data_dir)
    arrays = [read_idx(path) for path in paths]
    for path, array in zip(paths, arrays):
        ndim = 3 if "images" in path.name else 1
        if array.ndim != ndim or array.dtype != np.uint8:
            raise ValueError(
                f"load: {path}: must have {ndim} dimensions of unsigned bytes; got {array.ndim} of {array.dtype}"
            )
    classes = DIGITS if name == "mnist" else CLOTHES
    parts = []
    for i in (0, 2):
        try:
            parts.append(Dataset(arrays[i][:, None], arrays[i + 1], classes, name))
        except ValueError as error:
            raise ValueError(f"load: {paths[i]} and {paths[i + 1].name}: {error}") from error
    return tuple(parts)


def find(name, data_dir=None):
    """The paths of a data set's four files: the first folder in the order of `load` that has them all."""
    if data_dir is not None:
        paths = _first_complete(name, [Path(data_dir)])
        if paths is None:
            raise FileNotFoundError(
                f"load: data_dir must have the files {', '.join(FILES)} (plain or .gz) "
                f"or a folder {name} with them; got {str(data_dir)!r}"
            )
        return paths
    cache = _cache()
    variable = os.environ.get("PYCONV_DATA")
    roots = [Path(variable)] if variable else []
    roots += [SYSTEM / name] + ([cache / name] if cache else [])
    return _first_complete(name, roots) or _download(name, cache)


def _first_complete(name, roots):
    for root in roots:
        for folder in (root / name, root / TORCHVISION[name], root):
            pairs = [(folder / file, folder / f"{file}.gz") for file in FILES]
            if all(plain.is_file() or packed.is_file() for plain, packed in pairs):
                return [plain if plain.is_file() else packed for plain, packed in pairs]
    return None


def _cache():
    try:
        import platformdirs
    except ImportError:
        return None
    return Path(platformdirs.user_cache_dir("pyconv"))


def _download(name, cache):
    """Fetch the files into the cache, each from the first mirror that gives it with the right checksum."""
    choices = (
        f"give --data-dir (data_dir=) or set $PYCONV_DATA to a folder with the files {', '.join(FILES)} (plain or .gz)"
    )
    if name == "fashion-mnist":
        choices += ", or install Debian's package dataset-fashion-mnist"
    if cache is not None:
        choices += f", or put them into {cache / name}"
    try:
        import pooch
    except ImportError as error:
        raise FileNotFoundError(
            f"load: {name} was not found, and downloading it needs pooch: pip install 'pyconv[data]'; "
            f"without a network, {choices}"
        ) from error
    paths = []
    for file, digest in zip(FILES, SHA256[name]):
        reasons = []
        for mirror in MIRRORS[name]:
            try:
                paths.append(Path(pooch.retrieve(f"{mirror}{file}.gz", f"sha256:{digest}", f"{file}.gz", cache / name)))
                break
            except (OSError, ValueError) as error:  # no network, no such file, or a wrong checksum
                reasons.append(f"{mirror}: {error}")
        else:
            raise FileNotFoundError(
                f"load: {name} was not found, and the download failed ({'; '.join(reasons)}): {choices}"
            )
    return paths
