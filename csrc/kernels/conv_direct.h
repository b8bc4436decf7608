/* The plan of a direct convolution, and how its weights are packed. */
#ifndef PYCONV_CONV_DIRECT_H
#define PYCONV_CONV_DIRECT_H

#include "correlation.h"
#include "tile.h"

struct direct {
    const struct correlation *c;
    const real *packed, *bias; /* bias: [group][vector], zero where there is none */
    ptrdiff_t blocks, vectors; /* of filters, to a group */
    ptrdiff_t elements;        /* of the reduction: taps * src_channels */
    ptrdiff_t pixels;          /* destination pixels to a task */
    ptrdiff_t chunks;          /* tasks to an image */
    ptrdiff_t splits;          /* shares that the groups are cut into, or the one group's blocks */
    /* A split's tasks, over all images, follow one another: where weights leave L2, or are more than the
     * source. Then the latter travels from core to core, and a core reads the weights that it has packed: one
     * image's 1x1 layers of 1024 channels are 1.2 times as fast on two. */
    int by_split;
    int packs_late; /* each block is used once: packed then, it is still in L2 */
    int streams;    /* weights come from beyond L2: fetched a chunk ahead */
    int padded;     /* some tap reads outside of the image: its rows are copied */
    int ahead; /* a single tap's pixels are prefetched a tile early: worth 25 % where there are few filters */
    ptrdiff_t pitch;          /* elements from one copied pixel to the next */
    ptrdiff_t width;          /* source columns that a row of destination pixels reads */
    ptrdiff_t scratch_source; /* elements copied, at most */
    ptrdiff_t steps;          /* elements of the reduction where it is a list of offsets, else 0 */
    /* Short reductions to long rows: a band lies in one row, where all pixels are equally far apart, so that
     * a tile has little else to do than its products: 1x1 kernels on 16 to 100 channels are 1.1 to 1.3
     * times as fast, first layers with a stride of 2 1.1 to 1.2 (Zen 3). */
    ptrdiff_t even;      /* pixels to such a band, else 0 */
    ptrdiff_t most_runs; /* and chunks */
};

/* A block of filters of one group. */
struct block {
    ptrdiff_t group;
    struct filters filters;
};

INLINE struct block find_block(const struct direct *d, ptrdiff_t index) {
    return (struct block){index / d->blocks, filter_block(d->c->dst_channels, index % d->blocks)};
}

/* Where it begins in the packed weights. */
INLINE ptrdiff_t block_offset(const struct direct *d, const struct block *k) {
    return (k->group * d->vectors + k->filters.vector) * LANES * d->elements;
}

/* Pack one block of filters; scratch has room for weight_area() elements of ptrdiff_t. */
void VARIANT(direct_pack_block)(const struct direct *d, ptrdiff_t index, ptrdiff_t *place);
/* All of them, in parallel. */
int VARIANT(direct_pack_blocks)(const struct direct *d);
/* bias[group][vector], zero where there is none */
void VARIANT(direct_pack_bias)(const struct direct *d, real *bias);

#endif
