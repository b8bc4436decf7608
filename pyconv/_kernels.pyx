"""The only Cython: NumPy arrays in, C called without the GIL, a status turned into an exception.

Nothing is validated here: `pyconv.functional` has done that. Arrays must have the layout that
``csrc/pyconv.h`` asks for. The kernel table is that of the first array's dtype.
"""

import numpy as np

from libc.math cimport NAN
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from cpython.buffer cimport (
    PyBUF_STRIDES,
    PyBUF_WRITABLE,
    PyBuffer_FillInfo,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.mem cimport PyMem_Calloc, PyMem_Free

cdef extern from "pyconv.h" nogil:
    enum: PYCONV_ISA_COUNT
    enum: PYCONV_F32
    enum: PYCONV_F64
    enum: PYCONV_NO_MEMORY
    enum: PYCONV_BAD_INDEX

    enum pyconv_unary:
        PYCONV_RELU
        PYCONV_LEAKY_RELU
        PYCONV_HARDTANH
        PYCONV_HARDSIGMOID
        PYCONV_HARDSWISH
        PYCONV_SOFTSIGN
        PYCONV_SIGMOID
        PYCONV_TANH
        PYCONV_SILU
        PYCONV_MISH
        PYCONV_ELU
        PYCONV_SELU
        PYCONV_GELU
        PYCONV_GELU_TANH
        PYCONV_SOFTPLUS

    struct pyconv_activation_kernels:
        int (*unary)(pyconv_unary, ptrdiff_t, const void *, double, double, void *) noexcept nogil
        int (*unary_backward)(pyconv_unary, ptrdiff_t, const void *, const void *, double, double,
                              void *) noexcept nogil

    struct pyconv_softmax_kernels:
        int (*softmax)(ptrdiff_t, ptrdiff_t, ptrdiff_t, const void *, int, void *) noexcept nogil
        int (*softmax_backward)(ptrdiff_t, ptrdiff_t, ptrdiff_t, const void *, const void *, int,
                                void *) noexcept nogil

    enum pyconv_pointwise_loss:
        PYCONV_MSE_LOSS
        PYCONV_L1_LOSS
        PYCONV_SMOOTH_L1_LOSS
        PYCONV_BCE_WITH_LOGITS_LOSS

    struct pyconv_loss_kernels:
        int (*cross_entropy)(ptrdiff_t, ptrdiff_t, ptrdiff_t, const void *, const int64_t *, const void *, int64_t,
                             double, const void *, double, void *, void *) noexcept nogil
        int (*pointwise_loss)(pyconv_pointwise_loss, ptrdiff_t, const void *, const void *, double, void *,
                              double *) noexcept nogil
        int (*pointwise_loss_backward)(pyconv_pointwise_loss, ptrdiff_t, const void *, double, const void *,
                                       const void *, double, void *) noexcept nogil

    struct pyconv_pool:
        ptrdiff_t images, height, width, channels, out_height, out_width
        ptrdiff_t kernel[2]
        ptrdiff_t stride[2]
        ptrdiff_t padding[2]
        ptrdiff_t dilation[2]
        int adaptive
        int count_include_pad
        ptrdiff_t divisor
        int relu

    enum pyconv_pool_index:
        PYCONV_NO_INDEX
        PYCONV_PLANE_INDEX
        PYCONV_TAP_INDEX

    struct pyconv_max_pool_kernels:
        int (*forward)(const pyconv_pool *, pyconv_pool_index, const void *, void *, void *) noexcept nogil
        int (*backward)(const pyconv_pool *, const void *, const uint8_t *, void *) noexcept nogil

    struct pyconv_pool_index_kernels:
        int (*scatter)(ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, int, const void *, const int64_t *,
                       void *) noexcept nogil
        int (*gather)(ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, const void *, const int64_t *, void *) noexcept nogil

    struct pyconv_avg_pool_kernels:
        int (*forward)(const pyconv_pool *, const void *, void *) noexcept nogil
        int (*backward)(const pyconv_pool *, const void *, void *) noexcept nogil

    struct pyconv_dropout_kernels:
        int (*dropout)(ptrdiff_t, const void *, uint64_t, double, uint8_t *, void *) noexcept nogil
        int (*dropout_backward)(ptrdiff_t, const void *, const uint8_t *, double, void *) noexcept nogil

    struct pyconv_channel_kernels:
        int (*scale)(ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, const void *, const void *, void *) noexcept nogil
        int (*prelu)(ptrdiff_t, ptrdiff_t, ptrdiff_t, const void *, const void *, void *) noexcept nogil
        int (*prelu_backward)(ptrdiff_t, ptrdiff_t, ptrdiff_t, const void *, const void *, const void *, void *,
                              void *) noexcept nogil

    struct pyconv_taps:
        ptrdiff_t size, most
        const int32_t *count
        const int32_t *place
        const void *weight
        const int32_t *run
        int even

    struct pyconv_resample:
        ptrdiff_t images, height, width, channels
        pyconv_taps row, column
        double value

    struct pyconv_resample_kernels:
        int (*resample)(const pyconv_resample *, const void *, void *) noexcept nogil

    struct pyconv_layout_kernels:
        int (*transpose)(ptrdiff_t, ptrdiff_t, ptrdiff_t, const void *, void *) noexcept nogil

    struct pyconv_peak_kernels:
        double (*arithmetic)(ptrdiff_t, void *) noexcept nogil
        int (*memory)(ptrdiff_t, double, const void *, void *) noexcept nogil

    struct pyconv_norm:
        ptrdiff_t batch, rows, channels
        const double *mean
        const double *scale
        const double *bias
        const void *weight
        const void *shift
        int relu
        double ceiling

    struct pyconv_group_norm:
        ptrdiff_t groups
        double eps
        const double *weight
        const double *bias
        double *var
        double *mean
        double *scale
        double *shift

    struct pyconv_norm_kernels:
        int (*moments)(const pyconv_norm *, const void *, double *, double *) noexcept nogil
        int (*normalize)(const pyconv_norm *, const void *, const void *, void *) noexcept nogil
        int (*gradient_sums)(const pyconv_norm *, const void *, const void *, const void *, void *,
                             double *, double *) noexcept nogil
        int (*gradient)(const pyconv_norm *, const void *, const void *, const void *, const double *,
                        const double *, const double *, void *) noexcept nogil
        int (*normalize_groups)(const pyconv_norm *, const pyconv_group_norm *, const void *, void *) noexcept nogil
        int (*gradient_groups)(const pyconv_norm *, const pyconv_group_norm *, const void *, const void *, double *,
                               double *, void *) noexcept nogil
        int (*element_sums)(const pyconv_norm *, const void *, const void *, void *, void *) noexcept nogil

    struct pyconv_response:
        ptrdiff_t batch, rows, channels
        int planes
        ptrdiff_t before, after
        double scale, beta, k

    struct pyconv_response_kernels:
        int (*forward)(const pyconv_response *, const void *, void *) noexcept nogil
        int (*backward)(const pyconv_response *, const void *, const void *, void *) noexcept nogil

    struct pyconv_update:
        void *param
        const void *grad
        void *state[3]
        ptrdiff_t start
        ptrdiff_t count
        int first
        double step_size
        double correction

    struct pyconv_sgd_options:
        double lr, momentum, dampening, weight_decay
        int nesterov, maximize

    struct pyconv_adam_options:
        double lr, beta1, beta2, eps, weight_decay
        int decoupled, maximize

    struct pyconv_optim_kernels:
        int (*sgd)(ptrdiff_t, const pyconv_update *, const pyconv_sgd_options *) noexcept nogil
        int (*adam)(ptrdiff_t, const pyconv_update *, const pyconv_adam_options *) noexcept nogil
        int (*square_sum)(ptrdiff_t, const pyconv_update *, double *) noexcept nogil

    struct pyconv_conv2d:
        ptrdiff_t batch, groups
        ptrdiff_t in_channels, in_height, in_width
        ptrdiff_t out_channels, out_height, out_width
        ptrdiff_t kernel_height, kernel_width
        ptrdiff_t stride_height, stride_width
        ptrdiff_t pad_top, pad_left
        ptrdiff_t dilation_height, dilation_width

    struct pyconv_epilogue:
        const void *bias
        const void *residual
        int relu

    enum pyconv_conv_algorithm:
        PYCONV_CONV_AUTO
        PYCONV_CONV_DIRECT
        PYCONV_CONV_DEPTHWISE
        PYCONV_CONV_SCATTER
        PYCONV_CONV_WINOGRAD

    enum pyconv_conv_pass:
        PYCONV_FORWARD
        PYCONV_GRAD_INPUT
        PYCONV_GRAD_WEIGHT

    struct pyconv_conv_plan:
        pyconv_conv_algorithm algorithm
        double cycles
        ptrdiff_t lanes
        size_t shared, scratch, prepared

    struct pyconv_conv_kernels:
        int (*forward)(const pyconv_conv2d *, const void *, const void *, const void *, const pyconv_epilogue *,
                       void *, pyconv_conv_algorithm) noexcept nogil
        int (*grad_input)(const pyconv_conv2d *, const void *, const void *, void *,
                          pyconv_conv_algorithm) noexcept nogil
        int (*grad_weight)(const pyconv_conv2d *, const void *, const void *, void *, void *,
                           pyconv_conv_algorithm) noexcept nogil
        int (*prepare)(const pyconv_conv2d *, const void *, void *, pyconv_conv_algorithm) noexcept nogil
        int (*explain)(const pyconv_conv2d *, pyconv_conv_pass, pyconv_conv_algorithm,
                       pyconv_conv_plan *) noexcept nogil

    struct pyconv_linear_kernels:
        int (*forward)(ptrdiff_t, ptrdiff_t, ptrdiff_t, const void *, const void *, const void *, int,
                       void *) noexcept nogil
        int (*grad_input)(ptrdiff_t, ptrdiff_t, ptrdiff_t, const void *, const void *, void *) noexcept nogil
        int (*grad_weight)(ptrdiff_t, ptrdiff_t, ptrdiff_t, const void *, const void *, void *,
                           void *) noexcept nogil

    struct pyconv_join_kernels:
        int (*add)(ptrdiff_t, const void *, const void *, int, void *) noexcept nogil
        int (*copy)(ptrdiff_t, ptrdiff_t, const void *, ptrdiff_t, void *, ptrdiff_t) noexcept nogil

    struct pyconv_kernels_table "pyconv_kernels":
        const pyconv_activation_kernels *activation
        const pyconv_softmax_kernels *softmax
        const pyconv_loss_kernels *loss
        const pyconv_max_pool_kernels *max_pool
        const pyconv_pool_index_kernels *pool_index
        const pyconv_avg_pool_kernels *avg_pool
        const pyconv_dropout_kernels *dropout
        const pyconv_channel_kernels *channel
        const pyconv_resample_kernels *resample
        const pyconv_layout_kernels *layout
        const pyconv_peak_kernels *peak
        const pyconv_norm_kernels *norm
        const pyconv_norm_kernels *norm_planes
        const pyconv_response_kernels *norm_response
        const pyconv_optim_kernels *optim
        const pyconv_conv_kernels *conv
        const pyconv_linear_kernels *linear
        const pyconv_join_kernels *join

    int pyconv_best_isa()
    const char *pyconv_isa_name(int isa)
    const pyconv_kernels_table *pyconv_kernels(int isa, int dtype)
    int pyconv_has_openmp()
    void pyconv_set_num_threads(int threads)
    int pyconv_get_num_threads()
    void *pyconv_alloc(size_t size)
    void pyconv_free(void *block, size_t size)
    void pyconv_trim()
    size_t pyconv_idle_bytes()


# ---- Instruction set, threads ----------------------------------------------------------------------

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


cdef const pyconv_kernels_table *kernels(array) except NULL:
    cdef int dtype = PYCONV_F32 if array.dtype.itemsize == 4 else PYCONV_F64
    return pyconv_kernels(current_isa, dtype)


cdef int check(int status) except -1:
    if status == PYCONV_NO_MEMORY:
        raise MemoryError("pyconv: no memory for a kernel's workspace")
    if status == PYCONV_BAD_INDEX:
        raise IndexError("pyconv: an index lies outside the plane")
    return 0


# ---- Layout ------------------------------------------------------------------------------------------

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
    """The weighted sums along one axis: count and run (size,) and place (most, size) of int32, weight like
    place or None; as ``struct pyconv_taps`` says."""

    cdef pyconv_taps taps
    cdef tuple arrays

    def __init__(self, count, place, weight, run):
        self.arrays = (count, place, weight, run)
        self.taps.most, self.taps.size = place.shape
        self.taps.count = <const int32_t *>data(count)
        self.taps.place = <const int32_t *>data(place)
        self.taps.weight = self.taps.run = NULL
        if weight is not None:
            self.taps.weight = data(weight)
        if run is not None:
            self.taps.run = <const int32_t *>data(run)
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


# ---- Elementwise -------------------------------------------------------------------------------------

UNARY = {
    "relu": PYCONV_RELU,
    "leaky_relu": PYCONV_LEAKY_RELU,
    "hardtanh": PYCONV_HARDTANH,
    "hardsigmoid": PYCONV_HARDSIGMOID,
    "hardswish": PYCONV_HARDSWISH,
    "softsign": PYCONV_SOFTSIGN,
    "sigmoid": PYCONV_SIGMOID,
    "tanh": PYCONV_TANH,
    "silu": PYCONV_SILU,
    "mish": PYCONV_MISH,
    "elu": PYCONV_ELU,
    "selu": PYCONV_SELU,
    "gelu": PYCONV_GELU,
    "gelu_tanh": PYCONV_GELU_TANH,
    "softplus": PYCONV_SOFTPLUS,
}


def unary(int op, input, double a, double b, result):
    """result = f(input); both of one dense memory layout."""
    cdef const pyconv_kernels_table *table = kernels(input)
    cdef ptrdiff_t count = input.size
    cdef int status
    cdef const void *x = data(input)
    cdef void *y = output(result)
    with nogil:
        status = table.activation.unary(<pyconv_unary>op, count, x, a, b, y)
    check(status)


def unary_backward(int op, grad_output, input, double a, double b, grad_input):
    """grad_input = f'(input) grad_output; all of one dense memory layout."""
    cdef const pyconv_kernels_table *table = kernels(input)
    cdef ptrdiff_t count = input.size
    cdef const void *g = data(grad_output)
    cdef int status
    cdef const void *x = data(input)
    cdef void *y = output(grad_input)
    with nogil:
        status = table.activation.unary_backward(<pyconv_unary>op, count, g, x, a, b, y)
    check(status)


# ---- Softmax -----------------------------------------------------------------------------------------

def softmax(ptrdiff_t outer, ptrdiff_t dim, ptrdiff_t inner, input, bint log, result):
    """result = softmax, or its logarithm, along dim of input[outer][dim][inner]."""
    cdef const pyconv_kernels_table *table = kernels(input)
    cdef int status
    cdef const void *x = data(input)
    cdef void *y = output(result)
    with nogil:
        status = table.softmax.softmax(outer, dim, inner, x, log, y)
    check(status)


def softmax_backward(ptrdiff_t outer, ptrdiff_t dim, ptrdiff_t inner, grad_output, forward_output, bint log,
                     grad_input):
    """grad_input from grad_output and the forward's output, all [outer][dim][inner]."""
    cdef const pyconv_kernels_table *table = kernels(grad_output)
    cdef int status
    cdef const void *g = data(grad_output)
    cdef const void *y = data(forward_output)
    cdef void *result = output(grad_input)
    with nogil:
        status = table.softmax.softmax_backward(outer, dim, inner, g, y, log, result)
    check(status)


# ---- Dropout -----------------------------------------------------------------------------------------

def dropout(input, uint64_t seed, double p, mask, result):
    """Fill mask and result = input mask / (1 - p); all of one dense memory layout."""
    cdef const pyconv_kernels_table *table = kernels(input)
    cdef ptrdiff_t count = input.size
    cdef int status
    cdef const void *x = data(input)
    cdef void *m = output(mask)
    cdef void *y = output(result)
    with nogil:
        status = table.dropout.dropout(count, x, seed, p, <uint8_t *>m, y)
    check(status)


def dropout_backward(grad_output, mask, double p, grad_input):
    """grad_input = grad_output mask / (1 - p); all of one dense memory layout."""
    cdef const pyconv_kernels_table *table = kernels(grad_output)
    cdef ptrdiff_t count = grad_output.size
    cdef int status
    cdef const void *g = data(grad_output)
    cdef const void *m = data(mask)
    cdef void *y = output(grad_input)
    with nogil:
        status = table.dropout.dropout_backward(count, g, <const uint8_t *>m, p, y)
    check(status)


# ---- Channels ----------------------------------------------------------------------------------------

def channel_scale(ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner, ptrdiff_t period, input, factor, result):
    """result = input factor; input is [outer][channels][inner], factor [outer / period][channels]."""
    cdef const pyconv_kernels_table *table = kernels(input)
    cdef int status
    cdef const void *x = data(input)
    cdef const void *f = data(factor)
    cdef void *y = output(result)
    with nogil:
        status = table.channel.scale(outer, channels, inner, period, x, f, y)
    check(status)


def prelu(ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner, input, weight, result):
    """input is [outer][channels][inner], weight [channels]."""
    cdef const pyconv_kernels_table *table = kernels(input)
    cdef int status
    cdef const void *x = data(input)
    cdef const void *w = data(weight)
    cdef void *y = output(result)
    with nogil:
        status = table.channel.prelu(outer, channels, inner, x, w, y)
    check(status)


def prelu_backward(ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner, grad_output, input, weight, grad_input,
                   grad_weight):
    """Gradients of prelu; either may be None."""
    cdef const pyconv_kernels_table *table = kernels(input)
    cdef int status
    cdef const void *g = data(grad_output)
    cdef const void *x = data(input)
    cdef const void *w = data(weight)
    cdef void *gx = NULL if grad_input is None else output(grad_input)
    cdef void *gw = NULL if grad_weight is None else output(grad_weight)
    with nogil:
        status = table.channel.prelu_backward(outer, channels, inner, g, x, w, gx, gw)
    check(status)


# ---- Losses ------------------------------------------------------------------------------------------

POINTWISE_LOSS = {
    "mse_loss": PYCONV_MSE_LOSS,
    "l1_loss": PYCONV_L1_LOSS,
    "smooth_l1_loss": PYCONV_SMOOTH_L1_LOSS,
    "binary_cross_entropy_with_logits": PYCONV_BCE_WITH_LOGITS_LOSS,
}


def cross_entropy(ptrdiff_t outer, ptrdiff_t classes, ptrdiff_t inner, input, target, weight,
                  int64_t ignore_index, double smoothing, row_scale, double scale, loss, grad_input):
    """Losses of input [outer][classes][inner] with int64 target, and their gradient; either may be None."""
    cdef const pyconv_kernels_table *table = kernels(input)
    cdef int status
    cdef const void *x = data(input)
    cdef const void *t = data(target)
    cdef const void *w = NULL if weight is None else data(weight)
    cdef const void *s = NULL if row_scale is None else data(row_scale)
    cdef void *y = NULL if loss is None else output(loss)
    cdef void *g = NULL if grad_input is None else output(grad_input)
    with nogil:
        status = table.loss.cross_entropy(outer, classes, inner, x, <const int64_t *>t, w, ignore_index, smoothing,
                                          s, scale, y, g)
    check(status)


def pointwise_loss(int op, input, target, double a, losses):
    """The sum of the losses, which are written to `losses` unless it is None."""
    cdef const pyconv_kernels_table *table = kernels(input)
    cdef ptrdiff_t count = input.size
    cdef int status
    cdef double total = 0
    cdef const void *x = data(input)
    cdef const void *t = data(target)
    cdef void *y = NULL if losses is None else output(losses)
    with nogil:
        status = table.loss.pointwise_loss(<pyconv_pointwise_loss>op, count, x, t, a, y, &total)
    check(status)
    return total


def pointwise_loss_backward(int op, grad_output, double scale, input, target, double a, grad_input):
    """grad_input = scale * grad_output (1 where None) * slope."""
    cdef const pyconv_kernels_table *table = kernels(input)
    cdef ptrdiff_t count = input.size
    cdef int status
    cdef const void *g = NULL if grad_output is None else data(grad_output)
    cdef const void *x = data(input)
    cdef const void *t = data(target)
    cdef void *y = output(grad_input)
    with nogil:
        status = table.loss.pointwise_loss_backward(<pyconv_pointwise_loss>op, count, g, scale, x, t, a, y)
    check(status)


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


# ---- Normalisation -----------------------------------------------------------------------------------

cdef class Norm:
    """What a normalisation normalises: batch x channels runs of `rows` elements of one array.

    planes: whether memory is batch x channels x rows, rather than batch x rows x channels. relu: whether
    max(y, 0) follows, and min(y, ceiling) where the ceiling, which starts as NaN, is a number. mean, scale and
    bias are float64 arrays of batch x channels elements; so are the arrays that the methods return. weight
    and shift, for planes only, are None or arrays of x's dtype of `rows` elements.
    """

    cdef pyconv_norm norm
    cdef bint planes
    cdef public bint relu
    cdef public double ceiling
    cdef public object mean, scale, bias, weight, shift

    def __init__(self, ptrdiff_t batch, ptrdiff_t rows, ptrdiff_t channels, bint planes, bint relu=False):
        self.norm.batch, self.norm.rows, self.norm.channels = batch, rows, channels
        self.planes, self.relu, self.ceiling = planes, relu, NAN

    @property
    def sizes(self):
        """(batch, rows, channels, planes)"""
        return self.norm.batch, self.norm.rows, self.norm.channels, self.planes

    cdef const pyconv_norm_kernels *table(self, x) except NULL:
        cdef const pyconv_kernels_table *table = kernels(x)
        self.norm.relu, self.norm.ceiling = self.relu, self.ceiling
        self.norm.mean = <const double *>data(self.mean) if self.mean is not None else NULL
        self.norm.scale = <const double *>data(self.scale) if self.scale is not None else NULL
        self.norm.bias = <const double *>data(self.bias) if self.bias is not None else NULL
        self.norm.weight = data(self.weight) if self.weight is not None else NULL
        self.norm.shift = data(self.shift) if self.shift is not None else NULL
        return table.norm_planes if self.planes else table.norm

    def moments(self, x):
        """Mean and sum of squared distances from it."""
        cdef const pyconv_norm_kernels *table = self.table(x)
        shape = (self.norm.batch, self.norm.channels)
        mean, square = np.empty(shape), np.empty(shape)
        cdef const void *source = data(x)
        cdef double *m = <double *>output(mean)
        cdef double *s = <double *>output(square)
        cdef int status
        with nogil:
            status = table.moments(&self.norm, source, m, s)
        check(status)
        return mean, square

    def normalize(self, x, residual, y):
        """y = relu?((x - mean) * scale + bias + residual?)."""
        cdef const pyconv_norm_kernels *table = self.table(x)
        cdef const void *source = data(x)
        cdef const void *other = data(residual) if residual is not None else NULL
        cdef void *target = output(y)
        cdef int status
        with nogil:
            status = table.normalize(&self.norm, source, other, target)
        check(status)

    def gradient_sums(self, g, x, y, masked):
        """sum(g) and sum(g * (x - mean)), after the ReLU's mask; y and masked may be None."""
        cdef const pyconv_norm_kernels *table = self.table(x)
        shape = (self.norm.batch, self.norm.channels)
        sums, products = np.empty(shape), np.empty(shape)
        cdef const void *gradient = data(g)
        cdef const void *source = data(x)
        cdef const void *other = data(y) if y is not None else NULL
        cdef void *target = output(masked) if masked is not None else NULL
        cdef double *s = <double *>output(sums)
        cdef double *p = <double *>output(products)
        cdef int status
        with nogil:
            status = table.gradient_sums(&self.norm, gradient, source, other, target, s, p)
        check(status)
        return sums, products

    def gradient(self, g, x, y, a, b, c, dx):
        """dx = a * g + b * (x - mean) + c, with g masked; y may be None."""
        cdef const pyconv_norm_kernels *table = self.table(x)
        cdef const void *gradient = data(g)
        cdef const void *source = data(x)
        cdef const void *other = data(y) if y is not None else NULL
        cdef const double *pa = <const double *>data(a)
        cdef const double *pb = <const double *>data(b)
        cdef const double *pc = <const double *>data(c)
        cdef void *target = output(dx)
        cdef int status
        with nogil:
            status = table.gradient(&self.norm, gradient, source, other, pa, pb, pc, target)
        check(status)

    cdef pyconv_group_norm group_norm(self, var, double eps, weight, bias) except *:
        cdef pyconv_group_norm groups
        groups.groups, groups.eps = var.shape[1], eps
        groups.weight = groups.bias = NULL
        if weight is not None:
            groups.weight = <const double *>data(weight)
        if bias is not None:
            groups.bias = <const double *>data(bias)
        groups.var = <double *>output(var)
        groups.mean = <double *>output(self.mean)
        groups.scale = <double *>output(self.scale)
        groups.shift = <double *>output(self.bias)
        return groups

    def normalize_groups(self, ptrdiff_t groups, double eps, weight, bias, x, y):
        """y = (x - mean) / sqrt(var + eps) * weight + bias, by the statistics of x's groups of channels.

        Sets mean, scale and bias; returns var (batch, groups). weight, bias: float64, or None; y: or None.
        """
        shape = (self.norm.batch, self.norm.channels)
        self.mean, self.scale, self.bias = np.empty(shape), np.empty(shape), np.empty(shape)
        var = np.empty((self.norm.batch, groups))
        cdef const pyconv_norm_kernels *table = self.table(x)
        cdef pyconv_group_norm job = self.group_norm(var, eps, weight, bias)
        cdef const void *source = data(x)
        cdef void *target = output(y) if y is not None else NULL
        cdef int status
        with nogil:
            status = table.normalize_groups(&self.norm, &job, source, target)
        check(status)
        return var

    def gradient_groups(self, var, double eps, g, x, dx):
        """dx, after normalize_groups; returns what gradient_sums does."""
        cdef const pyconv_norm_kernels *table = self.table(x)
        cdef pyconv_group_norm job = self.group_norm(var, eps, None, None)
        shape = (self.norm.batch, self.norm.channels)
        sums, products = np.empty(shape), np.empty(shape)
        cdef const void *gradient = data(g)
        cdef const void *source = data(x)
        cdef double *s = <double *>output(sums)
        cdef double *p = <double *>output(products)
        cdef void *target = output(dx)
        cdef int status
        with nogil:
            status = table.gradient_groups(&self.norm, &job, gradient, source, s, p, target)
        check(status)
        return sums, products

    def element_sums(self, g, x, product, total):
        """product and total, of one entry's elements: the sums over the batch of g * (x - mean) * scale and g."""
        cdef const pyconv_norm_kernels *table = self.table(x)
        cdef const void *gradient = data(g)
        cdef const void *source = data(x)
        cdef void *p = output(product)
        cdef void *s = output(total)
        cdef int status
        with nogil:
            status = table.element_sums(&self.norm, gradient, source, p, s)
        check(status)


def local_response_norm(tuple sizes, bint planes, tuple window, double scale, double beta, double k, g, x, result):
    """result = x / (k + scale * sum(x^2)) ^ beta, or its gradient where g is not None.

    sizes: (batch, rows, channels); window: channels (before, after) each.
    """
    cdef const pyconv_kernels_table *table = kernels(x)
    cdef pyconv_response response
    cdef int status
    response.batch, response.rows, response.channels = sizes
    response.before, response.after = window
    response.planes, response.scale, response.beta, response.k = planes, scale, beta, k
    cdef const void *gradient = data(g) if g is not None else NULL
    cdef const void *source = data(x)
    cdef void *target = output(result)
    with nogil:
        if gradient == NULL:
            status = table.norm_response.forward(&response, source, target)
        else:
            status = table.norm_response.backward(&response, gradient, source, target)
    check(status)


# ---- Optimisers --------------------------------------------------------------------------------------

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
                if states[i][j] is not None:
                    self.list[i].state[j] = output(states[i][j])
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


# ---- Convolution -------------------------------------------------------------------------------------

CONV_ALGORITHMS = {
    "auto": PYCONV_CONV_AUTO,
    "direct": PYCONV_CONV_DIRECT,
    "depthwise": PYCONV_CONV_DEPTHWISE,
    "scatter": PYCONV_CONV_SCATTER,
    "winograd": PYCONV_CONV_WINOGRAD,
}
CONV_PASSES = {"forward": PYCONV_FORWARD, "grad_input": PYCONV_GRAD_INPUT, "grad_weight": PYCONV_GRAD_WEIGHT}


cdef class Conv2d:
    """The geometry of one convolution: everything about it but the arrays."""

    cdef pyconv_conv2d geometry

    def __init__(self, tuple input_shape, tuple weight_shape, tuple output_shape, tuple stride, tuple pad_before,
                 tuple dilation, ptrdiff_t groups):
        g = &self.geometry
        g.groups = groups
        g.batch, g.in_channels, g.in_height, g.in_width = input_shape
        _, g.out_channels, g.out_height, g.out_width = output_shape
        _, _, g.kernel_height, g.kernel_width = weight_shape
        g.stride_height, g.stride_width = stride
        g.pad_top, g.pad_left = pad_before
        g.dilation_height, g.dilation_width = dilation

    def explain(self, str conv_pass, dtype, int algorithm):
        """(algorithm's name, cycles, lanes, shared bytes, bytes a thread) of a pass."""
        table = pyconv_kernels(current_isa, PYCONV_F32 if dtype.itemsize == 4 else PYCONV_F64)
        cdef pyconv_conv_plan plan
        check(table.conv.explain(&self.geometry, CONV_PASSES[conv_pass], <pyconv_conv_algorithm>algorithm, &plan))
        name = next(name for name, value in CONV_ALGORITHMS.items() if value == plan.algorithm)
        return name, plan.cycles, plan.lanes, plan.shared, plan.scratch

    def layout(self, dtype, int algorithm):
        """How the forward pass lays its weight out: what tells one way from another, and elements, or 0."""
        table = pyconv_kernels(current_isa, PYCONV_F32 if dtype.itemsize == 4 else PYCONV_F64)
        cdef pyconv_conv_plan plan
        check(table.conv.explain(&self.geometry, PYCONV_FORWARD, <pyconv_conv_algorithm>algorithm, &plan))
        return (current_isa, plan.algorithm), plan.prepared // dtype.itemsize

    def prepare(self, weight, int algorithm, result):
        """result = the weight, laid out for `forward`."""
        cdef const pyconv_kernels_table *table = kernels(weight)
        cdef const void *w = data(weight)
        cdef void *y = output(result)
        cdef int status
        with nogil:
            status = table.conv.prepare(&self.geometry, w, y, <pyconv_conv_algorithm>algorithm)
        check(status)

    def forward(self, input, weight, prepared, bias, residual, bint relu, int algorithm, result):
        """result = relu(conv(input, weight) + bias + residual); prepared: None, or of `prepare`."""
        cdef const pyconv_kernels_table *table = kernels(input)
        cdef const void *x = data(input)
        cdef const void *w = data(weight)
        cdef const void *p = NULL if prepared is None else data(prepared)
        cdef void *y = output(result)
        cdef pyconv_epilogue epilogue
        cdef int status
        epilogue.bias = NULL if bias is None else data(bias)
        epilogue.residual = NULL if residual is None else data(residual)
        epilogue.relu = relu
        with nogil:
            status = table.conv.forward(&self.geometry, x, w, p, &epilogue, y, <pyconv_conv_algorithm>algorithm)
        check(status)

    def grad_input(self, grad_output, weight, int algorithm, result):
        cdef const pyconv_kernels_table *table = kernels(weight)
        cdef const void *g = data(grad_output)
        cdef const void *w = data(weight)
        cdef void *y = output(result)
        cdef int status
        with nogil:
            status = table.conv.grad_input(&self.geometry, g, w, y, <pyconv_conv_algorithm>algorithm)
        check(status)

    def grad_weight(self, grad_output, input, int algorithm, grad_weight, grad_bias):
        """Either of grad_weight and grad_bias may be None: it is not computed."""
        cdef const pyconv_kernels_table *table = kernels(grad_output)
        cdef const void *g = data(grad_output)
        cdef const void *x = data(input)
        cdef void *gw = NULL if grad_weight is None else output(grad_weight)
        cdef void *gb = NULL if grad_bias is None else output(grad_bias)
        cdef int status
        with nogil:
            status = table.conv.grad_weight(&self.geometry, g, x, gw, gb, <pyconv_conv_algorithm>algorithm)
        check(status)


# ---- Linear ------------------------------------------------------------------------------------------

def linear_forward(input, weight, bias, bint relu, result):
    """result = input weight^T + bias, then max(., 0) where relu; dense matrices."""
    cdef const pyconv_kernels_table *table = kernels(input)
    cdef ptrdiff_t rows = input.shape[0], columns = weight.shape[1], out = weight.shape[0]
    cdef const void *x = data(input)
    cdef const void *w = data(weight)
    cdef const void *b = NULL if bias is None else data(bias)
    cdef void *y = output(result)
    cdef int status
    with nogil:
        status = table.linear.forward(rows, columns, out, x, w, b, relu, y)
    check(status)


def linear_grad_input(grad_output, weight, result):
    """result = grad_output weight; dense matrices."""
    cdef const pyconv_kernels_table *table = kernels(weight)
    cdef ptrdiff_t rows = grad_output.shape[0], columns = weight.shape[1], out = weight.shape[0]
    cdef const void *g = data(grad_output)
    cdef const void *w = data(weight)
    cdef void *y = output(result)
    cdef int status
    with nogil:
        status = table.linear.grad_input(rows, columns, out, g, w, y)
    check(status)


def linear_grad_weight(grad_output, input, grad_weight, grad_bias):
    """grad_weight = grad_output^T input, grad_bias = the sum of grad_output's rows; either may be None."""
    cdef const pyconv_kernels_table *table = kernels(grad_output)
    cdef ptrdiff_t rows = input.shape[0], columns = input.shape[1], out = grad_output.shape[1]
    cdef const void *g = data(grad_output)
    cdef const void *x = data(input)
    cdef void *gw = NULL if grad_weight is None else output(grad_weight)
    cdef void *gb = NULL if grad_bias is None else output(grad_bias)
    cdef int status
    with nogil:
        status = table.linear.grad_weight(rows, columns, out, g, x, gw, gb)
    check(status)


# ---- Joins -------------------------------------------------------------------------------------------

def add(a, b, bint relu, result):
    """result = a + b, then max(., 0) where relu; all of one dense memory layout."""
    cdef const pyconv_kernels_table *table = kernels(a)
    cdef ptrdiff_t count = a.size
    cdef const void *x = data(a)
    cdef const void *y = data(b)
    cdef void *z = output(result)
    cdef int status
    with nogil:
        status = table.join.add(count, x, y, relu, z)
    check(status)


def copy_columns(ptrdiff_t rows, ptrdiff_t columns, input, ptrdiff_t input_stride, result, ptrdiff_t result_stride):
    """result[r][j] = input[r][j] for j < columns; rows are `stride` elements apart."""
    cdef const pyconv_kernels_table *table = kernels(input)
    cdef const void *x = data(input)
    cdef void *y = output(result)
    cdef int status
    with nogil:
        status = table.join.copy(rows, columns, x, input_stride, y, result_stride)
    check(status)


# ---- Pooling -----------------------------------------------------------------------------------------

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
