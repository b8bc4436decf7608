"""Files that are whole or not there: weights as safetensors, and anything else, written atomically.

A file is written under a temporary name in the same folder, flushed to the disk, and renamed over the
old one, so that a crash or a full disk leaves either the old file or the new one.
"""

import os
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np


@contextmanager
def replacing(path):
    """Context manager: gives a temporary path to write to, which becomes `path` when all went well.

    An OSError on the way is raised as one of `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    with suppress(OSError):  # the folder's entry; not every file system can
        _flush(path.parent)


def _flush(path):
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path, text):
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_safetensors(path, arrays, metadata=None):
    """Write named arrays as a safetensors file, atomically.

    Parameters
    ----------
    path : str or path-like
    arrays : mapping of str to ndarray
        For example a `state_dict`. Any strides.
    metadata : mapping of str to str, optional
        Kept in the file's header.

    Raises
    ------
    OSError
        Where it can't be written; what was there before is still there.
    ValueError
        Where an array has a dtype that such a file can't hold.

    Examples
    --------
    >>> import pyconv, tempfile
    >>> from pyconv.checkpoint import load_safetensors, save_safetensors
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_safetensors(f"{folder}/model.safetensors", {"weight": np.eye(2)})
    ...     arrays, metadata = load_safetensors(f"{folder}/model.safetensors")
    >>> arrays["weight"]
    array([[1., 0.],
           [0., 1.]])
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save

    try:
        content = save({name: np.asarray(array, order="C") for name, array in arrays.items()}, metadata)
    except SafetensorError as error:
        raise ValueError(f"save_safetensors: {error}") from error
    with replacing(path) as temporary, open(temporary, "wb") as file:  # the library's errors on writing are its own
        file.write(content)


def load_safetensors(path):
    """Read a safetensors file: (arrays by name, metadata).

    Raises
    ------
    ValueError
        Where the file is damaged or something else; the message names it.
    OSError
        Where it can't be opened.
    """
    from safetensors import SafetensorError, safe_open

    with open(path, "rb"):  # so that the error is Python's own
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"load_safetensors: {path}: not a whole safetensors file: {error}") from error
