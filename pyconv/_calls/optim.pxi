# Optimisers: a step of many parameters in one call.

from cpython.mem cimport PyMem_Calloc, PyMem_Free


cdef class Updates:
    """Parameters of one dtype as an optimiser's kernels see them, for many steps.

    params have `data` and `grad`; arrays are their data; states are tuples of up to three arrays, or None,
    of each parameter's state. A parameter's arrays all have one dense layout.
    """

    cdef readonly list params, arrays, states, grads
    cdef pyconv_update *list
    cdef ptrdiff_t count

    def __cinit__(self, list params, list arrays, list states):
        cdef ptrdiff_t i, start = 0
        cdef int j
        self.params, self.arrays, self.states, self.grads = params, arrays, states, []
        self.count = len(arrays)
        self.list = <pyconv_update *>PyMem_Calloc(self.count + 1, sizeof(pyconv_update))
        if self.list == NULL:
            raise MemoryError
        for i in range(self.count):
            self.list[i].param = output(arrays[i])
            for j in range(len(states[i])):
                self.list[i].state[j] = output_or_null(states[i][j])
            self.list[i].start = start
            self.list[i].count = arrays[i].size
            start += self.list[i].count

    def __dealloc__(self):
        PyMem_Free(self.list)

    def set_first(self, list first):
        """Which momentum buffers are new, and hold zeros; for one step."""
        cdef ptrdiff_t i
        for i in range(self.count):
            self.list[i].first = first[i]

    def set_grads(self, list grads):
        """The gradients of the next step, in the layout of the arrays."""
        cdef ptrdiff_t i
        for i in range(self.count):
            self.list[i].grad = data(grads[i])
        self.grads = grads

    def take_grads(self):
        """set_grads of the parameters' own gradients. False, and nothing to rely on, where one has none, or
        one of another layout, or where a parameter's array is another than it was."""
        cdef ptrdiff_t i
        cdef list grads = []
        for i in range(self.count):
            param = self.params[i]
            array, grad = param.data, param.grad
            if grad is None or array is not self.arrays[i] or not same_layout(array, grad):
                return False
            self.list[i].grad = data(grad)
            grads.append(grad)
        self.grads = grads
        return True


cdef bint same_layout(a, b) except -1:
    """Whether two arrays have one dtype, shape and strides, and the second is aligned."""
    cdef Py_buffer x, y
    cdef bint same
    cdef int i
    PyObject_GetBuffer(a, &x, PyBUF_STRIDES)
    try:
        PyObject_GetBuffer(b, &y, PyBUF_STRIDES)
    except BaseException:
        PyBuffer_Release(&x)
        raise
    same = x.ndim == y.ndim and x.itemsize == y.itemsize and <size_t>y.buf % <size_t>y.itemsize == 0
    for i in range(x.ndim):
        same = same and x.shape[i] == y.shape[i] and x.strides[i] == y.strides[i]
    PyBuffer_Release(&x)
    PyBuffer_Release(&y)
    return same and a.dtype is b.dtype


def sgd(Updates updates, double lr, double momentum, double dampening, double weight_decay, bint nesterov,
        bint maximize):
    """One step in place; states are (momentum buffer,), or () without momentum."""
    cdef const pyconv_kernels_table *table = kernels(updates.arrays[0])
    cdef pyconv_sgd_options options
    cdef ptrdiff_t i
    cdef int status
    options.lr, options.momentum, options.dampening = lr, momentum, dampening
    options.weight_decay = weight_decay
    options.nesterov, options.maximize = nesterov, maximize
    with nogil:
        status = table.optim.sgd(updates.count, updates.list, &options)
    updates.grads = []
    check(status)
    for i in range(updates.count):
        updates.list[i].first = 0


def adam(Updates updates, list steps, double lr, double beta1, double beta2, double eps, double weight_decay,
         bint decoupled, bint maximize):
    """One step in place; states are (mean, mean square, its maximum or None), steps[i] counts from 1."""
    cdef const pyconv_kernels_table *table = kernels(updates.arrays[0])
    cdef pyconv_adam_options options
    cdef ptrdiff_t i
    cdef int status
    options.lr, options.beta1, options.beta2, options.eps = lr, beta1, beta2, eps
    options.weight_decay, options.decoupled, options.maximize = weight_decay, decoupled, maximize
    for i in range(updates.count):
        updates.list[i].step_size = lr / (1 - beta1 ** <double>steps[i])
        updates.list[i].correction = (1 - beta2 ** <double>steps[i]) ** 0.5
    with nogil:
        status = table.optim.adam(updates.count, updates.list, &options)
    updates.grads = []
    check(status)


def square_sum(list grads):
    """The sum of the squares of all elements of dense arrays of one dtype."""
    cdef const pyconv_kernels_table *table = kernels(grads[0])
    cdef double result = 0
    cdef int status
    cdef ptrdiff_t i, start = 0, count = len(grads)
    cdef pyconv_update *list = <pyconv_update *>PyMem_Calloc(count, sizeof(pyconv_update))
    if list == NULL:
        raise MemoryError
    try:
        for i in range(count):
            list[i].grad = data(grads[i])
            list[i].start = start
            list[i].count = grads[i].size
            start += list[i].count
        with nogil:
            status = table.optim.square_sum(count, list, &result)
    finally:
        PyMem_Free(list)
    check(status)
    return result
