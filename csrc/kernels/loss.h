/* What loss.c has of loss_class.c and loss_entropy.c. */
#ifndef PYCONV_LOSS_H
#define PYCONV_LOSS_H

#include "simd.h"

/* loss_class.c */
double VARIANT(sum_losses)(ptrdiff_t count, const real *loss);
ptrdiff_t VARIANT(check_classes)(ptrdiff_t rows, ptrdiff_t classes, const int64_t *target, const void *weight,
                                 int64_t ignore_index, double *total);
int VARIANT(nll)(ptrdiff_t outer, ptrdiff_t classes, ptrdiff_t inner, const void *input,
                 const int64_t *target, const void *weight, int64_t ignore_index, void *loss, double *sum);
int VARIANT(nll_backward)(ptrdiff_t outer, ptrdiff_t classes, ptrdiff_t inner, const int64_t *target,
                          const void *weight, int64_t ignore_index, const void *row_scale, double scale,
                          void *grad_input);

/* loss_entropy.c */
int VARIANT(cross_entropy)(ptrdiff_t outer, ptrdiff_t classes, ptrdiff_t inner, const void *input,
                           const int64_t *target, const void *weight, int64_t ignore_index, double smoothing,
                           const void *row_scale, double scale, void *loss, double *sum, void *grad_input);

#endif
