# What moves elements: transposition, interpolation, padding, concatenation.

# ---- Transposition -----------------------------------------------------------------------------------

def transpose(ptrdiff_t batch, ptrdiff_t rows, ptrdiff_t columns, input, result):
    """result[b][j][i] = input[b][i][j]."""
    cdef const pyconv_kernels_table *table = kernels(input)
    cdef int status
    cdef const void *x = data(input)
    cdef void *y = output(result)
    with nogil:
        status = table.layout.transpose(batch, rows, columns, x, y)
    check(status)


# ---- Interpolation and padding -----------------------------------------------------------------------

cdef class Taps:
    """The weighted sums along one axis: count (size,), place (most, size) and stretch (stretches, 2) of int32,
    weight like place or None; as ``struct pyconv_taps`` says."""

    cdef pyconv_taps taps
    cdef tuple arrays

    def __init__(self, count, place, weight, stretch):
        self.arrays = (count, place, weight, stretch)
        self.taps.most, self.taps.size = place.shape
        self.taps.count = <const int32_t *>data(count)
        self.taps.place = <const int32_t *>data(place)
        self.taps.weight = data_or_null(weight)
        self.taps.stretches = len(stretch)
        self.taps.stretch = <const int32_t *>data(stretch)
        self.taps.even = bool((count > 0).all())


def resample(tuple sizes, Taps row, Taps column, double value, input, result):
    """result = the taps' sums over input, of `sizes` (images, height, width, channels); `value` without taps."""
    cdef const pyconv_kernels_table *table = kernels(input)
    cdef pyconv_resample job
    cdef int status
    cdef const void *x = data(input)
    cdef void *y = output(result)
    job.images, job.height, job.width, job.channels = sizes
    job.row, job.column, job.value = row.taps, column.taps, value
    with nogil:
        status = table.resample.resample(&job, x, y)
    check(status)


# ---- Concatenation -----------------------------------------------------------------------------------

def copy_columns(ptrdiff_t rows, ptrdiff_t columns, input, ptrdiff_t input_stride, result, ptrdiff_t result_stride):
    """result[r][j] = input[r][j] for j < columns; rows are `stride` elements apart."""
    cdef const pyconv_kernels_table *table = kernels(input)
    cdef const void *x = data(input)
    cdef void *y = output(result)
    cdef int status
    with nogil:
        status = table.join.copy(rows, columns, x, input_stride, y, result_stride)
    check(status)


def concat(ptrdiff_t rows, inputs, result):
    """Row r of result is row r of the inputs, each an array of `rows` dense rows, one behind the other."""
    cdef const pyconv_kernels_table *table = kernels(result)
    cdef ptrdiff_t count = len(inputs), k
    cdef size_t size = count * (sizeof(void *) + sizeof(ptrdiff_t))
    cdef void *y = output(result)
    cdef int status
    cdef const void **x = <const void **>pyconv_alloc(size)
    if x == NULL:
        raise MemoryError("pyconv: no memory for the addresses of arrays")
    cdef ptrdiff_t *columns = <ptrdiff_t *>(x + count)
    try:
        for k in range(count):
            x[k], columns[k] = data(inputs[k]), inputs[k].size // max(rows, 1)
        with nogil:
            status = table.join.concat(rows, count, x, columns, y)
        check(status)
    finally:
        pyconv_free(x, size)
