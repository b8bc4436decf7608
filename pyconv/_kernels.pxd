"""csrc/pyconv.h, as far as `_kernels` calls it."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

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
        PYCONV_SIGMOID_OUTPUT
        PYCONV_TANH_OUTPUT

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
        ptrdiff_t (*check_classes)(ptrdiff_t, ptrdiff_t, const int64_t *, const void *, int64_t,
                                   double *) noexcept nogil
        int (*cross_entropy)(ptrdiff_t, ptrdiff_t, ptrdiff_t, const void *, const int64_t *, const void *, int64_t,
                             double, const void *, double, void *, double *, void *) noexcept nogil
        int (*nll)(ptrdiff_t, ptrdiff_t, ptrdiff_t, const void *, const int64_t *, const void *, int64_t, void *,
                   double *) noexcept nogil
        int (*nll_backward)(ptrdiff_t, ptrdiff_t, ptrdiff_t, const int64_t *, const void *, int64_t, const void *,
                            double, void *) noexcept nogil
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
        ptrdiff_t stretches
        const int32_t *stretch
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
        int (*normalize_turned)(const pyconv_norm *, ptrdiff_t, const void *, void *) noexcept nogil
        int (*element_sums_turned)(const pyconv_norm *, ptrdiff_t, const void *, const void *, void *,
                                   void *) noexcept nogil

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
        int planes

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
        PYCONV_CONV_PLANES

    enum pyconv_conv_pass:
        PYCONV_FORWARD
        PYCONV_GRAD_INPUT
        PYCONV_GRAD_WEIGHT
        PYCONV_FORWARD_PREPARED

    struct pyconv_conv_plan:
        pyconv_conv_algorithm algorithm
        double cycles
        ptrdiff_t lanes
        size_t shared, scratch, prepared

    struct pyconv_conv_kernels:
        int (*forward)(const pyconv_conv2d *, const void *, const void *, const void *, const pyconv_epilogue *,
                       void *, pyconv_conv_algorithm) noexcept nogil
        int (*grad_input)(const pyconv_conv2d *, const void *, const void *, const void *, void *,
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
        int (*concat)(ptrdiff_t, ptrdiff_t, const void *const *, const ptrdiff_t *, void *) noexcept nogil

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
    size_t pyconv_cache_bytes()
    void pyconv_set_cache_bytes(size_t)
    const char *pyconv_isa_name(int isa)
    const pyconv_kernels_table *pyconv_kernels(int isa, int dtype)
    int pyconv_has_openmp()
    void pyconv_set_num_threads(int threads)
    int pyconv_get_num_threads()
    void *pyconv_alloc(size_t size)
    void pyconv_free(void *block, size_t size)
    void pyconv_trim()
    size_t pyconv_idle_bytes()
