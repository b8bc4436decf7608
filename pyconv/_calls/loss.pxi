# Softmax, and the losses: along a dimension, and of two arrays element by element.

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


# ---- Losses ------------------------------------------------------------------------------------------

POINTWISE_LOSS = {
    "mse_loss": PYCONV_MSE_LOSS,
    "l1_loss": PYCONV_L1_LOSS,
    "smooth_l1_loss": PYCONV_SMOOTH_L1_LOSS,
    "binary_cross_entropy_with_logits": PYCONV_BCE_WITH_LOGITS_LOSS,
}


def check_classes(ptrdiff_t classes, target, dtype, weight, int64_t ignore_index):
    """The first index of the flat int64 target that is no class, or -1, and the sum of the others' weights."""
    cdef const pyconv_kernels_table *table = kernels_of(dtype)
    cdef ptrdiff_t rows = target.size, wrong
    cdef double total = 0
    cdef const void *t = data(target)
    cdef const void *w = data_or_null(weight)
    with nogil:
        wrong = table.loss.check_classes(rows, classes, <const int64_t *>t, w, ignore_index, &total)
    return wrong, total


def cross_entropy(ptrdiff_t outer, ptrdiff_t classes, ptrdiff_t inner, input, target, weight,
                  int64_t ignore_index, double smoothing, bint summed, row_scale, double scale, loss, grad_input):
    """Losses of input [outer][classes][inner] with int64 target, and their gradient; either may be None.

    Returns the losses' sum where `summed`.
    """
    cdef const pyconv_kernels_table *table = kernels(input)
    cdef int status
    cdef double total = 0
    cdef const void *x = data(input)
    cdef const void *t = data(target)
    cdef const void *w = data_or_null(weight)
    cdef const void *s = data_or_null(row_scale)
    cdef void *y = output_or_null(loss)
    cdef void *g = output_or_null(grad_input)
    with nogil:
        status = table.loss.cross_entropy(outer, classes, inner, x, <const int64_t *>t, w, ignore_index, smoothing,
                                          s, scale, y, &total if summed else NULL, g)
    check(status)
    return total


def nll(ptrdiff_t outer, ptrdiff_t classes, ptrdiff_t inner, input, target, weight, int64_t ignore_index, loss):
    """Losses of input [outer][classes][inner] with int64 target, which are written unless None; their sum."""
    cdef const pyconv_kernels_table *table = kernels(input)
    cdef int status
    cdef double total = 0
    cdef const void *x = data(input)
    cdef const void *t = data(target)
    cdef const void *w = data_or_null(weight)
    cdef void *y = output_or_null(loss)
    with nogil:
        status = table.loss.nll(outer, classes, inner, x, <const int64_t *>t, w, ignore_index, y, &total)
    check(status)
    return total


def nll_backward(ptrdiff_t outer, ptrdiff_t classes, ptrdiff_t inner, target, weight, int64_t ignore_index,
                 row_scale, double scale, grad_input):
    """The gradient of the sum of row_scale (or scale, where it is None) times losses."""
    cdef const pyconv_kernels_table *table = kernels(grad_input)
    cdef int status
    cdef const void *t = data(target)
    cdef const void *w = data_or_null(weight)
    cdef const void *s = data_or_null(row_scale)
    cdef void *g = output(grad_input)
    with nogil:
        status = table.loss.nll_backward(outer, classes, inner, <const int64_t *>t, w, ignore_index, s, scale, g)
    check(status)


def pointwise_loss(int op, input, target, double a, losses):
    """The sum of the losses, which are written to `losses` unless it is None."""
    cdef const pyconv_kernels_table *table = kernels(input)
    cdef ptrdiff_t count = input.size
    cdef int status
    cdef double total = 0
    cdef const void *x = data(input)
    cdef const void *t = data(target)
    cdef void *y = output_or_null(losses)
    with nogil:
        status = table.loss.pointwise_loss(<pyconv_pointwise_loss>op, count, x, t, a, y, &total)
    check(status)
    return total


def pointwise_loss_backward(int op, grad_output, double scale, input, target, double a, grad_input):
    """grad_input = scale * grad_output (1 where None) * slope."""
    cdef const pyconv_kernels_table *table = kernels(input)
    cdef ptrdiff_t count = input.size
    cdef int status
    cdef const void *g = data_or_null(grad_output)
    cdef const void *x = data(input)
    cdef const void *t = data(target)
    cdef void *y = output(grad_input)
    with nogil:
        status = table.loss.pointwise_loss_backward(<pyconv_pointwise_loss>op, count, g, scale, x, t, a, y)
    check(status)
