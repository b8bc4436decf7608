# Pooling: maxima with and without their places, averages, and the way back from places.


cdef pyconv_pool pool_of(dict windows):
    """The C struct of windows: its sizes, and a (vertical, horizontal) pair of each option."""
    cdef pyconv_pool pool
    pool.images, pool.height, pool.width, pool.channels = windows["input"]
    pool.out_height, pool.out_width = windows["output"]
    pool.kernel = windows.get("kernel", (1, 1))
    pool.stride = windows.get("stride", (1, 1))
    pool.padding = windows.get("padding", (0, 0))
    pool.dilation = windows.get("dilation", (1, 1))
    pool.adaptive = windows.get("adaptive", False)
    pool.count_include_pad = windows.get("count_include_pad", False)
    pool.divisor = windows.get("divisor", 0)
    pool.relu = False
    return pool


def max_pool(dict windows, input, result, indices=None, bint relu=False):
    """The maxima, and where they are: int64 places in the plane, or uint8 taps, as `indices` can hold.

    relu: max(., 0) of the maxima, for more than one channel and taps.
    """
    cdef const pyconv_kernels_table *table = kernels(input)
    cdef pyconv_pool pool = pool_of(windows)
    pool.relu = relu
    cdef pyconv_pool_index form = PYCONV_NO_INDEX
    cdef int status
    cdef const void *x = data(input)
    cdef void *y = output(result)
    cdef void *k = NULL
    if indices is not None:
        form = PYCONV_TAP_INDEX if indices.dtype.itemsize == 1 else PYCONV_PLANE_INDEX
        k = output(indices)
    with nogil:
        status = table.max_pool.forward(&pool, form, x, y, k)
    check(status)


def max_pool_backward(dict windows, grad_output, taps, grad_input):
    """grad_input, from the uint8 taps that `max_pool` wrote."""
    cdef const pyconv_kernels_table *table = kernels(grad_output)
    cdef pyconv_pool pool = pool_of(windows)
    cdef int status
    cdef const void *g = data(grad_output)
    cdef const uint8_t *k = <const uint8_t *>data(taps)
    cdef void *y = output(grad_input)
    with nogil:
        status = table.max_pool.backward(&pool, g, k, y)
    check(status)


def pool_scatter(tuple sizes, bint assign, pooled, indices, unpooled):
    """unpooled[indices] += pooled, or =; sizes: images, elements of a plane, indices to a plane, channels."""
    cdef const pyconv_kernels_table *table = kernels(pooled)
    cdef ptrdiff_t images, plane, count, channels
    images, plane, count, channels = sizes
    cdef int status
    cdef const void *p = data(pooled)
    cdef const int64_t *k = <const int64_t *>data(indices)
    cdef void *u = output(unpooled)
    with nogil:
        status = table.pool_index.scatter(images, plane, count, channels, assign, p, k, u)
    check(status)


def pool_gather(tuple sizes, unpooled, indices, pooled):
    """pooled = unpooled[indices]; sizes as in `pool_scatter`."""
    cdef const pyconv_kernels_table *table = kernels(unpooled)
    cdef ptrdiff_t images, plane, count, channels
    images, plane, count, channels = sizes
    cdef int status
    cdef const void *u = data(unpooled)
    cdef const int64_t *k = <const int64_t *>data(indices)
    cdef void *p = output(pooled)
    with nogil:
        status = table.pool_index.gather(images, plane, count, channels, u, k, p)
    check(status)


def avg_pool(dict windows, input, result):
    cdef const pyconv_kernels_table *table = kernels(input)
    cdef pyconv_pool pool = pool_of(windows)
    cdef int status
    cdef const void *x = data(input)
    cdef void *y = output(result)
    with nogil:
        status = table.avg_pool.forward(&pool, x, y)
    check(status)


def avg_pool_backward(dict windows, grad_output, grad_input):
    cdef const pyconv_kernels_table *table = kernels(grad_output)
    cdef pyconv_pool pool = pool_of(windows)
    cdef int status
    cdef const void *g = data(grad_output)
    cdef void *y = output(grad_input)
    with nogil:
        status = table.avg_pool.backward(&pool, g, y)
    check(status)
