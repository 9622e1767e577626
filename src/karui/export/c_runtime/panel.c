/* Integer layers in panels, for machines with vectors: sixteen output channels side by side, four inputs of each at a time, as the
 * instructions that multiply and add bytes in fours want them.
 *
 * The image is copied once, with its border, as bytes without a sign (code + 128). Then what a pixel sees is a few runs of neighbouring
 * bytes, and eight pixels meet one or two panels at a time. What a run holds beyond its end meets weights that are zero. */

#include <stdint.h>
#include <string.h>

/* A layer's geometry. Lengths in the copy are in bytes. */
typedef struct {
    int32_t h, w, c, top, left;        /* the image, and where it lies in the copy */
    int32_t high, wide;                /* the copy: rows, and pixels of a row */
    int32_t pixels, ow, o, groups;     /* the output */
    int32_t down, along;               /* in the copy, from a row of output pixels to the next, and from a pixel to the next */
    int32_t runs_y, runs_x, run_y, run_x; /* the runs that a pixel sees, and how far they are apart */
    int32_t length, fours;             /* inputs of a run, and the fours that hold them */
    int32_t border;                    /* the byte that stands for nothing */
} k_panels;

/* Numbers of the output channels, sixteen to a panel; those that fill up the last one are zero. */
typedef struct {
    const int8_t *weights;     /* [panels][runs][fours][16][4], or NULL: decoded from `coded` */
    const k_weight *coded;
    const int32_t *start;      /* sums begin with it: −border · Σ weights */
    const int32_t *multiplier;
    const int64_t *bias;       /* of a panel, those of its even channels, then of its odd ones; so do shifts lie */
    const int64_t *shift;
    int32_t low, high;         /* codes */
} k_panel_weight;

/* What a set of instructions brings. `tile`: sums[8][panels][16] of eight pixels (of one only, where `one`) and one or two panels, which lie
 * `far` bytes apart. `depth`: sums[8][16] of a depthwise layer's panel. `add`: codes plus codes. `store`: the codes of `count` such pixels; `o`: from pixel to pixel of y; `left`: channels that are still to come. */
typedef struct {
    void (*tile)(const k_panels *l, const int8_t *w, int32_t far, int32_t panels, const uint8_t *const at[8], int32_t one, int32_t *sums);
    void (*depth)(const k_panels *l, const int8_t *w, const uint8_t *const at[8], int32_t *sums);
    void (*add)(const int8_t *a, const int8_t *b, int8_t *y, int32_t count, const k_pair *p);
    void (*store)(const int32_t *sums, int32_t count, int32_t panels, const k_panel_weight *w, int32_t panel, int8_t *y, int32_t o,
                  int32_t left);
} k_set;

/* The image in its border. */
static k_once void k_bordered(const int8_t *x, const k_panels *l, uint8_t *copy)
{
    const int32_t line = l->wide * l->c, width = l->w * l->c, before = l->left * l->c;
    int32_t y, i;
    for (y = 0; y < l->high; y++, copy += line) {
        const int8_t *from = x + (y - l->top) * width;
        if (y < l->top || y >= l->top + l->h) {
            memset(copy, l->border, (size_t)line);
            continue;
        }
        memset(copy, l->border, (size_t)before);
        for (i = 0; i < width; i++)
            copy[before + i] = (uint8_t)(from[i] ^ -128);
        memset(copy + before + width, l->border, (size_t)(line - before - width));
    }
}

/* Where the eight pixels from `first` on begin in the copy; the last one stands in for those behind it. */
static void k_starts(const k_panels *l, const uint8_t *copy, int32_t first, const uint8_t *at[8])
{
    int32_t i, y = first / l->ow, x = first % l->ow;
    for (i = 0; i < 8; i++) {
        at[i] = copy + y * l->down + x * l->along;
        if (first + i + 1 < l->pixels && ++x == l->ow) {
            x = 0;
            y++;
        }
    }
}

/* Rows `first` … as up to two panels, decoded: the panels, and what their sums begin with. Rows are read in order. */
static k_once void k_unpacked(const k_panels *l, const k_weight *w, k_cursor *cursor, int32_t first, int32_t rows, int32_t panels,
                              k_index *index, int8_t *stored, int8_t *row, int8_t *unpacked, int32_t *start)
{
    const int32_t runs = l->runs_y * l->runs_x, length = l->length, size = runs * l->fours * 64;
    int32_t j, r, i;
    memset(unpacked, 0, (size_t)(panels * size));
    memset(start, 0, (size_t)panels * 16 * sizeof(int32_t));
    for (j = 0; j < rows; j++) {
        int8_t *to = unpacked + (j / 16) * size + (j % 16) * 4;
        const int8_t *from = row;
        int32_t sum = 0;
        k_row_codes(w, cursor, first + j, index, stored, row);
        for (r = 0; r < runs; r++, from += length, to += l->fours * 64)
            for (i = 0; i < length; i++) {
                to[i / 4 * 64 + i % 4] = from[i];
                sum += from[i];
            }
        start[j] = -l->border * sum;
    }
}

/* A layer. `copy`: scratch for the image in its border and 4 bytes more; the rest: scratch where weights are decoded, or NULL. */
static k_once void k_panels_i8(const int8_t *x, int8_t *y, const k_panels *l, const k_panel_weight *given, const k_set *set, uint8_t *copy,
                               int32_t *start, int8_t *unpacked, int8_t *row, k_index *index, int8_t *stored)
{
    const int32_t outputs = l->o / l->groups, each = (outputs + 15) / 16, size = l->runs_y * l->runs_x * l->fours * 64;
    k_cursor cursor = k_start();
    k_panel_weight w = *given;
    int32_t group, q, p, panels, sums[8 * 32];
    k_bordered(x, l, copy);
    for (group = 0; group < l->groups; group++)
        for (q = 0; q < each; q += panels) {
            const int32_t first = group * outputs + q * 16, left = outputs - q * 16, panel = group * each + q;
            const int8_t *weights = given->weights + (size_t)panel * (size_t)size;
            panels = left > 16 ? 2 : 1;
            if (given->coded && unpacked) {
                k_unpacked(l, given->coded, &cursor, first, left < 32 ? left : 32, panels, index, stored, row, unpacked, start);
                weights = unpacked;
                w.start = start - panel * 16;
            }
            for (p = 0; p < l->pixels; p += 8) {
                const int32_t count = l->pixels - p < 8 ? l->pixels - p : 8;
                const uint8_t *at[8];
                k_starts(l, copy + group * l->length, p, at);
                set->tile(l, weights, size, panels, at, count == 1, sums);
                set->store(sums, count, panels, &w, panel, y + p * l->o + first, l->o, left);
            }
        }
}

/* Rows of a depthwise layer as panels [panels][taps][16], decoded, and what their sums begin with. */
static k_once void k_unfolded(const k_panels *l, const k_weight *w, k_index *index, int8_t *stored, int8_t *row, int8_t *unpacked,
                              int32_t *start)
{
    k_cursor cursor = k_start();
    const int32_t taps = l->runs_y * l->runs_x, filled = (l->o + 15) / 16 * 16;
    int32_t j, i;
    memset(unpacked, 0, (size_t)(filled * taps));
    memset(start, 0, (size_t)filled * sizeof(int32_t));
    for (j = 0; j < l->o; j++) {
        int32_t sum = 0;
        k_row_codes(w, &cursor, j, index, stored, row);
        for (i = 0; i < taps; i++) {
            unpacked[(j / 16 * taps + i) * 16 + j % 16] = row[i];
            sum += row[i];
        }
        start[j] = -l->border * sum;
    }
}

/* A depthwise layer; its weights are [panels][taps][16]. Scratch as above, with 16 bytes behind the copy. */
static k_once void k_depth_i8(const int8_t *x, int8_t *y, const k_panels *l, const k_panel_weight *given, const k_set *set, uint8_t *copy,
                              int32_t *start, int8_t *unpacked, int8_t *row, k_index *index, int8_t *stored)
{
    const int32_t taps = l->runs_y * l->runs_x;
    const int8_t *weights = given->weights;
    k_panel_weight w = *given;
    int32_t p, first, sums[8 * 16];
    k_bordered(x, l, copy);
    if (given->coded && unpacked) {
        k_unfolded(l, given->coded, index, stored, row, unpacked, start);
        weights = unpacked;
        w.start = start;
    }
    for (first = 0; first < l->o; first += 16)
        for (p = 0; p < l->pixels; p += 8) {
            const int32_t count = l->pixels - p < 8 ? l->pixels - p : 8;
            const uint8_t *at[8];
            k_starts(l, copy + first, p, at);
            set->depth(l, weights + first * taps, at, sums);
            set->store(sums, count, 1, &w, first / 16, y + p * l->o + first, l->o, l->o - first);
        }
}

/* The set that every machine has. */
static void k_depth_plain(const k_panels *l, const int8_t *w, const uint8_t *const at[8], int32_t *sums)
{
    int32_t i, ry, rx, o;
    for (i = 0; i < 8; i++, sums += 16) {
        const int8_t *tap = w;
        memset(sums, 0, 16 * sizeof(int32_t));
        for (ry = 0; ry < l->runs_y; ry++)
            for (rx = 0; rx < l->runs_x; rx++, tap += 16)
                for (o = 0; o < 16; o++)
                    sums[o] += at[i][ry * l->run_y + rx * l->run_x + o] * tap[o];
    }
}

/* Its codes plus codes. */
static void k_add_plain(const int8_t *a, const int8_t *b, int8_t *y, int32_t count, const k_pair *p)
{
    const int32_t ma = p->ma, mb = p->mb, bias = (int32_t)p->bias, shift = p->shift, low = p->low, high = p->high;
    int32_t i;
    for (i = 0; i < count; i++) {
        const int32_t v = (a[i] * ma + b[i] * mb + bias) >> shift;
        y[i] = (int8_t)(v < low ? low : v > high ? high : v);
    }
}

/* Its sums. */
static void k_tile_plain(const k_panels *l, const int8_t *w, int32_t far, int32_t panels, const uint8_t *const at[8], int32_t one,
                         int32_t *sums)
{
    int32_t i, q, ry, rx, j, o, k;
    for (i = 0; i < (one ? 1 : 8); i++)
        for (q = 0; q < panels; q++, sums += 16) {
            const int8_t *row = w + q * far;
            memset(sums, 0, 16 * sizeof(int32_t));
            for (ry = 0; ry < l->runs_y; ry++)
                for (rx = 0; rx < l->runs_x; rx++) {
                    const uint8_t *from = at[i] + ry * l->run_y + rx * l->run_x;
                    for (j = 0; j < l->fours; j++, from += 4, row += 64)
                        for (o = 0; o < 16; o++)
                            for (k = 0; k < 4; k++)
                                sums[o] += from[k] * row[o * 4 + k];
                }
        }
}

/* Its codes. */
static void k_store_plain(const int32_t *sums, int32_t count, int32_t panels, const k_panel_weight *w, int32_t panel, int8_t *y, int32_t o,
                          int32_t left)
{
    const int32_t low = w->low, high = w->high;
    int32_t i, j;
    for (i = 0; i < count; i++, y += o)
        for (j = 0; j < 16 * panels; j++, sums++) {
            const int32_t at = panel * 16 + j, place = panel * 16 + j / 16 * 16 + j % 2 * 8 + j % 16 / 2;
            const int64_t sum = (int32_t)((uint32_t)*sums + (uint32_t)w->start[at]);
            const int64_t v = (sum * w->multiplier[at] + w->bias[place]) >> w->shift[place];
            if (j < left)
                y[j] = (int8_t)(v < low ? low : v > high ? high : v);
        }
}
