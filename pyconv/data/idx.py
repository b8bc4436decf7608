"""IDX files, the format of MNIST: two zero bytes, an element type, the number of dimensions, each
dimension as a big-endian uint32, then the elements. Plain or compressed by gzip.

Source: http://yann.lecun.com/exdb/mnist/
"""

import gzip
import math
import os
import struct
import zlib

import numpy as np

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP_MAGIC = b"\x1f\x8b"
DEFLATE_LIMIT = 1032  # deflate never packs more than this many bytes into one


def read_idx(path):
    """Read an IDX file, plain or gzip; which of the two is told by its first bytes.

    The sizes in the header are checked against the file before any memory is asked for.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    ndarray
        In the file's shape and element type, native byte order.

    Raises
    ------
    ValueError
        Where the file is damaged or no IDX file; the message names the file and the rule.
    OSError
        Where it can't be opened.
    """
    with open(path, "rb") as file:
        compressed = file.read(2) == GZIP_MAGIC
        file.seek(0)
        size = os.fstat(file.fileno()).st_size
        if not compressed:
            return _read(path, file, size)
        try:
            with gzip.GzipFile(fileobj=file) as unpacked:
                return _read(path, unpacked, size * DEFLATE_LIMIT, exact=False)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"read_idx: {path}: the gzip data is damaged or cut short: {error}") from error


def _read(path, file, size, exact=True):
    """Read an array from an open file of `size` bytes; at most that many where not `exact`."""
    magic = _take(path, file, 4)
    if magic[:2] != b"\0\0" or magic[2] not in DTYPES:
        raise ValueError(
            f"read_idx: {path}: an IDX file must begin with 00 00, then a type of "
            f"{', '.join(f'{code:02x}' for code in DTYPES)}; got {magic.hex(' ')}"
        )
    shape = struct.unpack(f">{magic[3]}I", _take(path, file, 4 * magic[3]))
    dtype = np.dtype(DTYPES[magic[2]])
    wanted = 4 + 4 * magic[3] + math.prod(shape) * dtype.itemsize
    if wanted > size or (exact and wanted < size):
        raise ValueError(
            f"read_idx: {path}: the header says {_shape(shape)}, which takes {wanted} bytes; "
            f"the file has {'' if exact else 'room for '}{size}"
        )
    try:
        array = np.empty(shape, dtype)
    except ValueError as error:  # too many dimensions, or a product beyond the address space beside a 0
        raise ValueError(f"read_idx: {path}: the header says {_shape(shape)}: {error}") from error
    _fill(path, file, memoryview(array.reshape(-1).view(np.uint8)))
    if file.read(1):  # for gzip this also checks the length and the checksum at the end
        raise ValueError(f"read_idx: {path}: bytes follow the {_shape(shape)} that the header says")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _take(path, file, count):
    header = file.read(count)
    if len(header) < count:
        raise ValueError(f"read_idx: {path}: the file ends within its header")
    return header


def _fill(path, file, target):
    position = 0
    while position < len(target):
        count = file.readinto(target[position:])
        if not count:
            raise ValueError(
                f"read_idx: {path}: cut short: the header says {len(target)} bytes of elements; got {position}"
            )
        position += count


def _shape(shape):
    return "x".join(map(str, shape)) + " elements" if shape else "one element"
