# Convolution of one geometry, and linear layers.

# ---- Convolution -------------------------------------------------------------------------------------

CONV_ALGORITHMS = {
    "auto": PYCONV_CONV_AUTO,
    "direct": PYCONV_CONV_DIRECT,
    "depthwise": PYCONV_CONV_DEPTHWISE,
    "scatter": PYCONV_CONV_SCATTER,
    "winograd": PYCONV_CONV_WINOGRAD,
    "planes": PYCONV_CONV_PLANES,
}
CONV_PASSES = {"forward": PYCONV_FORWARD, "grad_input": PYCONV_GRAD_INPUT, "grad_weight": PYCONV_GRAD_WEIGHT}


cdef class Conv2d:
    """The geometry of one convolution: everything about it but the arrays. planes: these are C-contiguous, and
    not channels-last."""

    cdef pyconv_conv2d geometry

    def __init__(self, tuple input_shape, tuple weight_shape, tuple output_shape, tuple stride, tuple pad_before,
                 tuple dilation, ptrdiff_t groups, bint planes):
        g = &self.geometry
        g.groups = groups
        g.batch, g.in_channels, g.in_height, g.in_width = input_shape
        _, g.out_channels, g.out_height, g.out_width = output_shape
        _, _, g.kernel_height, g.kernel_width = weight_shape
        g.stride_height, g.stride_width = stride
        g.pad_top, g.pad_left = pad_before
        g.dilation_height, g.dilation_width = dilation
        g.planes = planes

    def explain(self, str conv_pass, dtype, int algorithm):
        """(algorithm's name, cycles, lanes, shared bytes, bytes a thread) of a pass."""
        cdef const pyconv_kernels_table *table = kernels_of(dtype)
        cdef pyconv_conv_plan plan
        check(table.conv.explain(&self.geometry, CONV_PASSES[conv_pass], <pyconv_conv_algorithm>algorithm, &plan))
        name = next(name for name, value in CONV_ALGORITHMS.items() if value == plan.algorithm)
        return name, plan.cycles, plan.lanes, plan.shared, plan.scratch

    def layout(self, dtype, int algorithm):
        """How the forward pass reads a weight laid out once: what tells one way from another, and elements, or 0."""
        cdef const pyconv_kernels_table *table = kernels_of(dtype)
        cdef pyconv_conv_plan plan
        check(table.conv.explain(&self.geometry, PYCONV_FORWARD_PREPARED, <pyconv_conv_algorithm>algorithm, &plan))
        return (current_isa, plan.algorithm, plan.prepared), plan.prepared // dtype.itemsize

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
        cdef const void *p = data_or_null(prepared)
        cdef void *y = output(result)
        cdef pyconv_epilogue epilogue
        cdef int status
        epilogue.bias = data_or_null(bias)
        epilogue.residual = data_or_null(residual)
        epilogue.relu = relu
        with nogil:
            status = table.conv.forward(&self.geometry, x, w, p, &epilogue, y, <pyconv_conv_algorithm>algorithm)
        check(status)

    def grad_input(self, grad_output, weight, residual, int algorithm, result):
        """result = the gradient of the input, + residual unless that is None."""
        cdef const pyconv_kernels_table *table = kernels(weight)
        cdef const void *g = data(grad_output)
        cdef const void *w = data(weight)
        cdef const void *r = data_or_null(residual)
        cdef void *y = output(result)
        cdef int status
        with nogil:
            status = table.conv.grad_input(&self.geometry, g, w, r, y, <pyconv_conv_algorithm>algorithm)
        check(status)

    def grad_weight(self, grad_output, input, int algorithm, grad_weight, grad_bias):
        """Either of grad_weight and grad_bias may be None: it is not computed."""
        cdef const pyconv_kernels_table *table = kernels(grad_output)
        cdef const void *g = data(grad_output)
        cdef const void *x = data(input)
        cdef void *gw = output_or_null(grad_weight)
        cdef void *gb = output_or_null(grad_bias)
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
    cdef const void *b = data_or_null(bias)
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
    cdef void *gw = output_or_null(grad_weight)
    cdef void *gb = output_or_null(grad_bias)
    cdef int status
    with nogil:
        status = table.linear.grad_weight(rows, columns, out, g, x, gw, gb)
    check(status)
