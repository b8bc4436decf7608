/* What linear.c and linear_rows.c share. */
#ifndef PYCONV_LINEAR_H
#define PYCONV_LINEAR_H

#include "simd.h"

/* y = x W^T + b and its gradients: x [rows][in], W [out][in], y [rows][out] */
struct linear {
    ptrdiff_t rows, in, out;
    const real *input, *weight, *bias, *grad_output;
    real *output, *grad_input, *grad_weight, *grad_bias;
    int relu;
};

/* linear_rows.c: more than a few rows */
int VARIANT(linear_forward)(const struct linear *l);
int VARIANT(linear_grad_input)(const struct linear *l);
int VARIANT(linear_grad_weight)(const struct linear *l);

#endif
