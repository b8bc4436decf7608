/* Tiles from an image, and outputs back to it; winograd_image.h has the formats. */
#include "tile.h"
#include "transpose.h"
#include "winograd_image.h"

/* ---- Channels-last: pixels where they are ---- */

static void make_from_pixels(const struct tile_image *m, const struct tiling *t, ptrdiff_t tile,
                             ptrdiff_t begin, ptrdiff_t end, struct tile_matrix to) {
    const struct tile_place at = place_tile(t, tile);
    const ptrdiff_t stride = m->step / t->outputs;
    const real *from[MOST_SPAN * MOST_SPAN];
    find_pixels(m->span, t, m->pixels + at.image * m->height * m->width * m->channels, m->height, m->width,
                m->channels, at.y * stride + m->y, at.x * stride + m->x, m->zeros, from);
    const struct tile_vector vector = {.from = from,
                                       .offset = begin,
                                       .next = m->step * t->dilation_width * m->channels,
                                       .to = to.at,
                                       .plane = to.plane};
    transform_channels(m->transform, vector, end - begin, to.pitch);
}

/* ---- Planes ---- */

/* What a window shows of an image: rows and columns from (y, x) on. */
struct view {
    ptrdiff_t y, x, height, width;
};

/* Pixels of `channels` planes, LANES at most, `area` apart, to a window; whole vectors are loaded and stored,
 * where the former end before `end`: what is beyond `pixels` is written again later. */
INLINE void split_pixels(const real *from, ptrdiff_t area, ptrdiff_t channels, ptrdiff_t pixels,
                         const real *end, real *to) {
    struct rows row = begin_rows(from, area);
    ptrdiff_t whole =
        channels == LANES ? min_size(pixels, (end - from - (LANES - 1) * area) / LANES * LANES) : 0;
    vec square[LANES];
    ptrdiff_t p = 0;
    for (; p < whole; p += LANES, row.at += sizeof(vec), to += LANES * WINDOW_CHANNELS) {
        keep_scaling(&row, LANES);
        UNROLL for (int l = 0; l < LANES; l++) square[l] = load(row_at(&row, l));
        transpose_lanes(square);
        UNROLL for (int l = 0; l < LANES; l++) store(to + l * WINDOW_CHANNELS, square[l]);
    }
    for (; p < pixels; p += LANES, to += LANES * WINDOW_CHANNELS)
        transpose_square(from + p, area, channels, min_size(LANES, pixels - p), to, WINDOW_CHANNELS);
}

/* `channels` planes from `plane` on. */
static void fill_window(const struct tile_image *m, const real *plane, ptrdiff_t channels,
                        const struct view *view, real *to) {
    const ptrdiff_t area = m->height * m->width;
    const struct overlap o = overlap_columns(view->x, view->width, m->width);
    for (ptrdiff_t i = 0; i < view->height; i++, to += view->width * WINDOW_CHANNELS) {
        const ptrdiff_t y = view->y + i;
        if (y < 0 || y >= m->height) {
            clear_elements(to, view->width * WINDOW_CHANNELS);
            continue;
        }
        const real *from = plane + y * m->width + o.from;
        for (ptrdiff_t c = 0; c < channels; c += LANES)
            split_pixels(from + c * area, area, min_size(LANES, channels - c), o.count, m->end,
                         to + o.left * WINDOW_CHANNELS + c);
        clear_elements(to, o.left * WINDOW_CHANNELS);
        ptrdiff_t end = o.left + o.count;
        clear_elements(to + end * WINDOW_CHANNELS, (view->width - end) * WINDOW_CHANNELS);
    }
}

static void make_from_planes(const struct tile_image *m, const struct tiling *t, const struct piece *piece,
                             ptrdiff_t begin, ptrdiff_t end, struct tile_matrix to, real *window) {
    const ptrdiff_t stride = m->step / t->outputs, area = m->height * m->width;
    const struct view view = {piece->at.y * stride + m->y, piece->at.x * stride + m->x,
                              (piece->rows - 1) * m->step + m->span,
                              (piece->columns - 1) * m->step + m->span};
    const real *image = m->pixels + piece->at.image * m->channels * area, *from[MOST_SPAN * MOST_SPAN];
    for (ptrdiff_t i = 0; i < m->span; i++)
        for (ptrdiff_t j = 0; j < m->span; j++)
            from[i * m->span + j] = window + (i * view.width + j) * WINDOW_CHANNELS;
    for (ptrdiff_t c = begin; c < end; c += WINDOW_CHANNELS) {
        const ptrdiff_t channels = min_size(WINDOW_CHANNELS, end - c);
        fill_window(m, image + c * area, channels, &view, window);
        struct tile_vector vector = {.from = from, .to = to.at + (c - begin), .plane = to.plane};
        for (ptrdiff_t i = 0; i < piece->rows; i++)
            for (ptrdiff_t j = 0; j < piece->columns; j++, vector.to += to.pitch) {
                vector.offset = (i * view.width + j) * m->step * WINDOW_CHANNELS;
                transform_channels(m->transform, vector, channels, to.pitch);
            }
    }
}

void VARIANT(make_tiles)(const struct tile_image *m, const struct tiling *t, ptrdiff_t first, ptrdiff_t count,
                         ptrdiff_t begin, ptrdiff_t end, struct tile_matrix to, real *window) {
    if (!m->planes) {
        for (ptrdiff_t i = 0; i < count; i++, to.at += to.pitch)
            make_from_pixels(m, t, first + i, begin, end, to);
        return;
    }
    for (ptrdiff_t i = 0; i < count;) {
        struct piece piece = next_piece(m, t, first + i, count - i);
        make_from_planes(m, t, &piece, begin, end, to, window);
        to.at += piece.count * to.pitch;
        i += piece.count;
    }
}

/* ---- Outputs to planes ---- */

/* `channels` channels of `pixels` pixels, both LANES at most, from a window to planes `area` apart */
INLINE void put_square(const struct correlation *c, const real *from, ptrdiff_t pitch, ptrdiff_t channels,
                       ptrdiff_t pixels, ptrdiff_t area, ptrdiff_t place) {
    const real *residual = c->epilogue.residual;
    vec square[LANES];
    UNROLL for (int p = 0; p < LANES; p++) square[p] = load(from + p * pitch);
    transpose_lanes(square);
    if (residual)
        UNROLL for (int l = 0; l < LANES; l++) if (l < channels) square[l] +=
            load_first(residual + place + l * area, pixels);
    if (c->epilogue.relu)
        UNROLL for (int l = 0; l < LANES; l++) square[l] = choose(square[l] < 0, (vec){0}, square[l]);
    real *to = c->dst + place;
    if (channels == LANES && pixels == LANES) {
        UNROLL for (int l = 0; l < LANES; l++) store(to + l * area, square[l]);
    } else {
        UNROLL for (int l = 0; l < LANES; l++) if (l < channels)
            store_first(to + l * area, square[l], pixels);
    }
}

void VARIANT(put_window)(const struct correlation *c, const struct output_window *w) {
    const ptrdiff_t area = c->dst_height * c->dst_width;
    const ptrdiff_t rows = min_size(w->height, c->dst_height - w->y),
                    columns = min_size(w->width, c->dst_width - w->x);
    for (ptrdiff_t k = 0; k < w->channels; k += LANES)
        for (ptrdiff_t i = 0; i < rows; i++) {
            const ptrdiff_t place =
                w->image * c->dst_image + (w->channel + k) * area + (w->y + i) * c->dst_width + w->x;
            const real *from = w->pixels + i * w->width * w->pitch + k;
            for (ptrdiff_t p = 0; p < columns; p += LANES)
                put_square(c, from + p * w->pitch, w->pitch, min_size(LANES, w->channels - k),
                           min_size(LANES, columns - p), area, place + p);
        }
}
