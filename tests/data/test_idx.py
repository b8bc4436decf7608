"""IDX files: every element type, plain and gzip, and each way in which a file can be wrong."""

import gzip
import struct

import numpy as np
import pytest

from pyconv.data import read_idx

TYPES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx(array, code=0x08):
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


IMAGES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("dtype", TYPES)
def test_reads_every_type(tmp_path, dtype, pack):
    array = np.arange(-12, 12).reshape(2, 3, 4).astype(dtype)
    path = tmp_path / "file"
    path.write_bytes(pack(idx(array, TYPES[dtype])))
    result = read_idx(path)
    np.testing.assert_array_equal(result, array)
    assert result.dtype == array.dtype and result.dtype.isnative


@pytest.mark.parametrize("shape", [(), (0,), (0, 28, 28), (7,)])
def test_reads_every_shape(tmp_path, shape):
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(idx(np.ones(shape, np.uint8))))
    assert read_idx(path).shape == shape


def huge(shape):
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + bytes(100)


PLAIN = {
    "empty": (b"", "ends within its header"),
    "half a header": (idx(IMAGES)[:10], "ends within its header"),
    "not IDX": (b"\x89PNG" + bytes(60), "must begin with 00 00"),
    "unknown type": (bytes([0, 0, 0x0A, 1]) + bytes(10), "must begin with 00 00"),
    "cut short": (idx(IMAGES)[:-1], "takes 76 bytes; the file has 75"),
    "bytes after the end": (idx(IMAGES) + b"x", "takes 76 bytes; the file has 77"),
    "more than memory": (huge((2**32 - 1,) * 3), "the header says"),
    "beyond 64 bits": (huge((2**32 - 1,) * 200), "the header says|ends within"),
    "zero times huge": (huge((0,) + (2**32 - 1,) * 4), "the header says"),
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("case", PLAIN)
def test_a_damaged_file_is_named_with_the_rule(tmp_path, case, pack):
    content, message = PLAIN[case]
    path = tmp_path / "broken-file"
    path.write_bytes(pack(content))
    if pack is gzip.compress and "the file has" in message:
        message = "ends|cut short|follow"
    with pytest.raises(ValueError, match=message) as error:
        read_idx(path)
    assert str(path) in str(error.value)


def flipped(content, position):
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]


NOISE = np.random.default_rng(0).integers(0, 256, (50, 8, 8)).astype(np.uint8)
PACKED = gzip.compress(idx(NOISE))


@pytest.mark.parametrize(
    "content",
    [PACKED[: len(PACKED) // 2], PACKED[:-4], PACKED[:12], flipped(PACKED, 1000), flipped(PACKED, -5),
     PACKED + b"garbage"],
    ids=["cut in half", "cut at the end", "cut in the header", "a wrong byte", "wrong checksum", "garbage"],
)  # fmt: skip
def test_damaged_gzip_is_named(tmp_path, content):
    path = tmp_path / "broken-file.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="broken-file.gz: "):
        read_idx(path)


def test_a_small_gzip_file_cannot_ask_for_much_memory(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(huge((60000, 2800, 2800))))
    with pytest.raises(ValueError, match="bomb.gz: the header says 60000x2800x2800 elements, .* room for"):
        read_idx(path)


def test_a_missing_file_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "nothing")
