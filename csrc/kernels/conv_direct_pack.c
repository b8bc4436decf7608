/* Packing the weights of direct convolutions: weight[k][c][tap] to [group][block][tap][c][vector], by
 * transposing LANES x LANES of them in registers. */
#include "conv_direct.h"
#include "parallel.h"

/* LANES filters (`filters` of them real), whose `length` elements from `from` on are contiguous: channel by
 * channel from `channel` on, `area` taps each; to rows of `width`. place[index]: which tap that is, or -1. */
static void pack_filters(const struct correlation *c, const real *from, ptrdiff_t filters, ptrdiff_t channel,
                         ptrdiff_t length, const ptrdiff_t *place, ptrdiff_t area, real *packed,
                         ptrdiff_t width) {
    ptrdiff_t index = 0;
    for (ptrdiff_t e = 0; e < length; e += LANES) {
        ptrdiff_t count = min_size(LANES, length - e);
        vec row[LANES];
        for (ptrdiff_t k = 0; k < LANES; k++)
            row[k] = k >= filters     ? (vec){0}
                     : count == LANES ? load(from + k * c->weight_dst + e)
                                      : load_first(from + k * c->weight_dst + e, count);
        transpose_lanes(row);
        for (ptrdiff_t i = 0; i < count; i++) {
            if (place[index] >= 0) store(packed + (place[index] * c->src_channels + channel) * width, row[i]);
            if (++index == area) index = 0, channel++;
        }
    }
}

/* LANES filters on one channel: few of their taps, which are not worth a transposition */
static void pack_few(const struct correlation *c, const real *from, ptrdiff_t filters, ptrdiff_t channel,
                     real *packed, ptrdiff_t width) {
    for (ptrdiff_t t = 0; t < c->taps; t++) {
        real *to = packed + (t * c->src_channels + channel) * width;
        const real *at = from + c->tap[t].index;
        for (ptrdiff_t k = 0; k < LANES; k++) to[k] = k < filters ? at[k * c->weight_dst] : 0;
    }
}

void VARIANT(direct_pack_block)(const struct direct *d, ptrdiff_t index, ptrdiff_t *place) {
    const struct correlation *c = d->c;
    const struct block block = find_block(d, index);
    ptrdiff_t area = weight_area(c), width = block.filters.vectors * LANES;
    const real *weight =
        c->weight + block.group * c->weight_group + block.filters.vector * LANES * c->weight_dst;
    real *packed = (real *)d->packed + block_offset(d, &block);
    for (ptrdiff_t i = 0; i < area; i++) place[i] = -1;
    for (ptrdiff_t t = 0; t < c->taps; t++) place[c->tap[t].index] = t;
    if (c->weight_src == area && area * c->src_channels > 1) {
        for (ptrdiff_t v = 0; v < width; v += LANES)
            pack_filters(c, weight + v * c->weight_dst, min_size(LANES, block.filters.count - v), 0,
                         area * c->src_channels, place, area, packed + v, width);
        return;
    }
    for (ptrdiff_t i = 0; i < c->src_channels; i++) {
        const real *row = weight + i * c->weight_src;
        fetch_filters(c, row, block.filters.count);
        for (ptrdiff_t v = 0; v < width; v += LANES) {
            ptrdiff_t filters = min_size(LANES, block.filters.count - v);
            const real *from = row + v * c->weight_dst;
            if (area == 1)
                store(packed + i * width + v, load_first(from, filters));
            else if (2 * c->taps > area)
                pack_filters(c, from, filters, i, area, place, area, packed + v, width);
            else
                pack_few(c, from, filters, i, packed + v, width);
        }
    }
}

void VARIANT(direct_pack_bias)(const struct direct *d, real *bias) {
    const struct correlation *c = d->c;
    const real *from = c->epilogue.bias;
    for (ptrdiff_t group = 0; group < c->groups; group++)
        for (ptrdiff_t k = 0; k < d->vectors * LANES; k++)
            *bias++ = from && k < c->dst_channels ? from[group * c->dst_channels + k] : 0;
}

static void run_pack(const void *context, ptrdiff_t task, void *scratch) {
    VARIANT(direct_pack_block)(context, task, scratch);
}

int VARIANT(direct_pack_blocks)(const struct direct *d) {
    ptrdiff_t blocks = d->c->groups * d->blocks;
    double elements = (double)(d->c->groups * d->vectors * LANES * d->elements);
    return parallel_run(blocks, elements * 0.5, (size_t)weight_area(d->c) * sizeof(ptrdiff_t), run_pack, d);
}
