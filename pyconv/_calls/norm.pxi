# Normalisation: batch, group, instance and layer norm by `Norm`, and local response norm.

from libc.math cimport NAN


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
        self.norm.mean = <const double *>data_or_null(self.mean)
        self.norm.scale = <const double *>data_or_null(self.scale)
        self.norm.bias = <const double *>data_or_null(self.bias)
        self.norm.weight = data_or_null(self.weight)
        self.norm.shift = data_or_null(self.shift)
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
        cdef const void *other = data_or_null(residual)
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
        cdef const void *other = data_or_null(y)
        cdef void *target = output_or_null(masked)
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
        cdef const void *other = data_or_null(y)
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
        groups.weight = <const double *>data_or_null(weight)
        groups.bias = <const double *>data_or_null(bias)
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
        cdef void *target = output_or_null(y)
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

    def normalize_turned(self, ptrdiff_t channels, x, y):
        """y = (x - mean) * scale * weight + shift, whose elements are [channels][pixels] where x's are the reverse."""
        cdef const pyconv_norm_kernels *table = self.table(x)
        cdef const void *source = data(x)
        cdef void *target = output(y)
        cdef int status
        with nogil:
            status = table.normalize_turned(&self.norm, channels, source, target)
        check(status)

    def element_sums_turned(self, ptrdiff_t channels, g, x, product, total):
        """What element_sums gives, as [channels][pixels]."""
        cdef const pyconv_norm_kernels *table = self.table(x)
        cdef const void *gradient = data(g)
        cdef const void *source = data(x)
        cdef void *p = output(product)
        cdef void *s = output(total)
        cdef int status
        with nogil:
            status = table.element_sums_turned(&self.norm, channels, gradient, source, p, s)
        check(status)

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
    cdef const void *gradient = data_or_null(g)
    cdef const void *source = data(x)
    cdef void *target = output(result)
    with nogil:
        if gradient == NULL:
            status = table.norm_response.forward(&response, source, target)
        else:
            status = table.norm_response.backward(&response, gradient, source, target)
    check(status)
