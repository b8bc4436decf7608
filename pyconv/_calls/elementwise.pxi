# Functions of each element: activations, dropout, factors for channels, sums.

# ---- Activations -------------------------------------------------------------------------------------

UNARY = {
    "relu": PYCONV_RELU,
    "leaky_relu": PYCONV_LEAKY_RELU,
    "hardtanh": PYCONV_HARDTANH,
    "hardsigmoid": PYCONV_HARDSIGMOID,
    "hardswish": PYCONV_HARDSWISH,
    "softsign": PYCONV_SOFTSIGN,
    "sigmoid": PYCONV_SIGMOID,
    "tanh": PYCONV_TANH,
    "sigmoid_output": PYCONV_SIGMOID_OUTPUT,
    "tanh_output": PYCONV_TANH_OUTPUT,
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
    cdef void *gx = output_or_null(grad_input)
    cdef void *gw = output_or_null(grad_weight)
    with nogil:
        status = table.channel.prelu_backward(outer, channels, inner, g, x, w, gx, gw)
    check(status)


# ---- Sums --------------------------------------------------------------------------------------------

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
