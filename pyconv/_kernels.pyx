"""The only Cython: NumPy arrays in, C called without the GIL, a status turned into an exception.

What it calls is declared in ``_kernels.pxd``; the calls are in ``_calls``, a file for each family, which this
one includes. Nothing is validated here: `pyconv.functional` has done that. Arrays must have the layout that
``csrc/pyconv.h`` asks for. The kernel table is that of the first array's dtype.
"""

import numpy as np

from cpython.buffer cimport (
    PyBUF_STRIDES,
    PyBUF_WRITABLE,
    PyBuffer_FillInfo,
    PyBuffer_Release,
    PyObject_GetBuffer,
)


# ---- Instruction set, threads ------------------------------------------------------------------------

cdef int current_isa = pyconv_best_isa()


def isa_names():
    """The levels that this machine and build have, lowest first."""
    return [pyconv_isa_name(i).decode() for i in range(PYCONV_ISA_COUNT)
            if pyconv_kernels(i, PYCONV_F32) != NULL]


def get_isa():
    return pyconv_isa_name(current_isa).decode()


def set_isa(name):
    global current_isa
    names = isa_names()
    if name not in names:
        raise ValueError(f"PYCONV_ISA: must be one of {', '.join(names)} on this machine; got {name!r}")
    current_isa = [pyconv_isa_name(i).decode() for i in range(PYCONV_ISA_COUNT)].index(name)


def get_cache_bytes():
    return pyconv_cache_bytes()


def set_cache_bytes(size_t size):
    """Arrays of more bytes in all are written past the caches (for tests: results have the same bits)."""
    pyconv_set_cache_bytes(size)


def has_openmp():
    return bool(pyconv_has_openmp())


def set_num_threads(int threads):
    pyconv_set_num_threads(threads)


def get_num_threads():
    return pyconv_get_num_threads()


# ---- Memory ------------------------------------------------------------------------------------------

cdef class Block:
    """A block of the memory pool, given back when the last array that sees it is gone."""

    cdef void *data
    cdef size_t size

    def __cinit__(self, size_t size):
        self.size = size
        self.data = pyconv_alloc(size)
        if self.data == NULL:
            raise MemoryError(f"pyconv: no memory for an array of {size} bytes")

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, <Py_ssize_t>self.size, 0, flags)

    def __dealloc__(self):
        pyconv_free(self.data, self.size)


def empty(tuple shape, dtype, bint channels_last=False):
    """An uninitialised array from the pool: C-contiguous, or (N, C, H, W) with channels-last memory."""
    cdef size_t item = dtype.itemsize
    cdef size_t count = 1, extent
    try:
        for extent in shape:
            if extent != 0 and count > (<size_t>1 << 62) // item // extent:
                raise OverflowError
            count *= extent
    except OverflowError:
        raise MemoryError(f"pyconv: an array of shape {shape} is larger than the address space") from None
    block = Block(count * item)
    if not channels_last:
        return np.ndarray(shape, dtype, block)
    _, c, h, w = shape
    return np.ndarray(shape, dtype, block, 0, (h * w * c * item, item, w * c * item, c * item))


def empty_cache():
    pyconv_trim()


def idle_bytes():
    return pyconv_idle_bytes()


# ---- What every call does ----------------------------------------------------------------------------

cdef void *data(array, int access=PyBUF_STRIDES) except? NULL:
    """Where an array's elements begin; the caller's reference keeps them alive."""
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, access)
    cdef void *pointer = view.buf
    PyBuffer_Release(&view)
    return pointer


cdef void *output(array) except? NULL:
    return data(array, PyBUF_STRIDES | PyBUF_WRITABLE)


cdef void *data_or_null(array) except? NULL:
    return NULL if array is None else data(array)


cdef void *output_or_null(array) except? NULL:
    return NULL if array is None else output(array)


cdef const pyconv_kernels_table *kernels_of(dtype) except NULL:
    return pyconv_kernels(current_isa, PYCONV_F32 if dtype.itemsize == 4 else PYCONV_F64)


cdef const pyconv_kernels_table *kernels(array) except NULL:
    return kernels_of(array.dtype)


cdef int check(int status) except -1:
    if status == PYCONV_NO_MEMORY:
        raise MemoryError("pyconv: no memory for a kernel's workspace")
    if status == PYCONV_BAD_INDEX:
        raise IndexError("pyconv: an index lies outside the plane")
    return 0


# ---- The machine's limits ----------------------------------------------------------------------------

def peak_arithmetic(ptrdiff_t rounds, result):
    """Do nothing but multiply and add, in result's dtype; returns how often. result: 256 elements."""
    cdef const pyconv_kernels_table *table = kernels(result)
    cdef double operations
    cdef void *y = output(result)
    with nogil:
        operations = table.peak.arithmetic(rounds, y)
    return operations


def peak_memory(double factor, x, y):
    """y += factor * x, both dense."""
    cdef const pyconv_kernels_table *table = kernels(x)
    cdef ptrdiff_t count = x.size
    cdef int status
    cdef const void *source = data(x)
    cdef void *target = output(y)
    with nogil:
        status = table.peak.memory(count, factor, source, target)
    check(status)


# ---- The families of kernels -------------------------------------------------------------------------

include "_calls/elementwise.pxi"
include "_calls/loss.pxi"
include "_calls/layout.pxi"
include "_calls/norm.pxi"
include "_calls/pool.pxi"
include "_calls/conv.pxi"
include "_calls/optim.pxi"
