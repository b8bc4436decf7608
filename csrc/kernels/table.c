/* Gathers the families' tables of one instruction set and scalar type. */
#include "pyconv.h"
#include "simd.h"

extern const struct pyconv_activation_kernels KERNELS(activation);
extern const struct pyconv_softmax_kernels KERNELS(softmax);
extern const struct pyconv_loss_kernels KERNELS(loss);
extern const struct pyconv_max_pool_kernels KERNELS(max_pool);
extern const struct pyconv_pool_index_kernels KERNELS(pool_index);
extern const struct pyconv_avg_pool_kernels KERNELS(avg_pool);
extern const struct pyconv_dropout_kernels KERNELS(dropout);
extern const struct pyconv_channel_kernels KERNELS(channel);
extern const struct pyconv_resample_kernels KERNELS(resample);
extern const struct pyconv_layout_kernels KERNELS(layout);
extern const struct pyconv_peak_kernels KERNELS(peak);
extern const struct pyconv_norm_kernels KERNELS(norm), KERNELS(norm_planes);
extern const struct pyconv_response_kernels KERNELS(norm_response);
extern const struct pyconv_optim_kernels KERNELS(optim);
extern const struct pyconv_conv_kernels KERNELS(conv);
extern const struct pyconv_linear_kernels KERNELS(linear);
extern const struct pyconv_join_kernels KERNELS(join);

const struct pyconv_kernels KERNELS(kernels) = {
    .activation = &KERNELS(activation),
    .softmax = &KERNELS(softmax),
    .loss = &KERNELS(loss),
    .max_pool = &KERNELS(max_pool),
    .pool_index = &KERNELS(pool_index),
    .avg_pool = &KERNELS(avg_pool),
    .dropout = &KERNELS(dropout),
    .channel = &KERNELS(channel),
    .resample = &KERNELS(resample),
    .layout = &KERNELS(layout),
    .peak = &KERNELS(peak),
    .norm = &KERNELS(norm),
    .norm_planes = &KERNELS(norm_planes),
    .norm_response = &KERNELS(norm_response),
    .optim = &KERNELS(optim),
    .conv = &KERNELS(conv),
    .linear = &KERNELS(linear),
    .join = &KERNELS(join),
};
