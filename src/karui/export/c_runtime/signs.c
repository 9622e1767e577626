/* Layers whose weights are −1 and +1, over activations of few bits: one exclusive-or and a count of ones for eight products.
 *
 * The image is copied once, with its border, as planes of bits: a code is `low` + Σ 2^i · bit i, a pixel's channels lie in whole bytes, each
 * group's from a new byte on. Weights lie in blocks of thirty-two output channels, eight inputs of each at a time, or in pairs of blocks. A
 * bit that differs from its weight's takes from the sum; all else is the same for every pixel, and part of the bias. */

#include <stdint.h>
#include <string.h>

/* A layer. `lay`: its geometry, whose lengths in the copy are bytes of bits, as `spread` spreads them; c: channels; fours: bytes of bits of
 * a run. */
typedef struct {
    k_panels lay;
    int32_t spread;          /* 2 where a byte of bits is two bytes of the copy, four bits in the upper half of each; else 1 */
    int32_t paired;          /* whether eight inputs of two neighbouring blocks lie side by side, but for a last block that has no other */
    int32_t part, whole;     /* in the copy: bytes of a group in a pixel, and of a plane */
    int32_t planes, low;     /* of one plane, bits say whether a code is more than `low` */
    int32_t fill;            /* what the border is, less `low` */
    int32_t step;            /* by how much a bit changes a code */
    int32_t kh, kw, sy, sx, dy, dx;
    const uint8_t *weights;  /* [groups][blocks][runs][bytes][32], or of two blocks [runs][bytes][2][32] */
    const int16_t *outside;  /* [kh · kw][groups][blocks · 32]: what a tap in the border adds to a sum, or NULL where it adds nothing */
    const int32_t *least;    /* [groups][blocks · 32]: sums from which on the output's bit is one, or NULL where it is codes */
    const uint8_t *rounds;   /* [groups][blocks]: whether sum · scale + offset, rounded, is the code in all of them; NULL: in none */
    const float *scale, *offset; /* [groups][blocks · 32] */
    int32_t packed, pixel;   /* whether the input is bits already, without a border; bytes of a pixel of the output, where it is bits */
} k_signs;

/* What a set of instructions brings. `pack`: bits of `count` codes, the last byte filled up with zeros. `tile`: sums[2][8][32] of eight
 * pixels (of one only, where `one`) and one or two blocks, whose weights lie `far` bytes apart: minus the bits that differ. `bits`: which
 * of a pixel's next sums, thirty-two or as many as are `left`, reach their `least`. `codes`: those of `count` pixels of a block, by rounding;
 * `block` counts those of all groups; or NULL. */
typedef struct {
    void (*pack)(const k_signs *l, const int8_t *x, int32_t count, int32_t plane, uint8_t *to);
    void (*tile)(const k_signs *l, const uint8_t *w, int32_t far, int32_t blocks, const uint8_t *const at[8], int32_t one, int32_t *sums);
    void (*bits)(const k_signs *l, const int32_t *sums, const int32_t *least, int32_t left, uint8_t *to);
    void (*codes)(const k_signs *l, const k_panel_weight *w, const int32_t *sums, int32_t count, int32_t block, int32_t left, int8_t *y);
} k_signs_set;

/* How sums become codes: as in `k_set`. */
typedef void k_store(const int32_t *sums, int32_t count, int32_t panels, const k_panel_weight *w, int32_t panel, const int64_t *bias,
                     int8_t *y, int32_t o, int32_t left);

/* Eight bits of the copy. */
static uint32_t k_byte_of(const k_signs *l, const uint8_t *p, int32_t j)
{
    return l->spread == 2 ? (uint32_t)(p[2 * j] >> 4 | p[2 * j + 1]) : p[j];
}

/* The same written. */
static void k_put_byte(const k_signs *l, uint8_t *p, int32_t j, uint32_t byte)
{
    if (l->spread == 2) {
        p[2 * j] = (uint8_t)(byte << 4);
        p[2 * j + 1] = (uint8_t)(byte & 0xf0u);
    } else {
        p[j] = (uint8_t)byte;
    }
}

/* Bytes from a block's eight inputs to its next, where `blocks` of them are computed together. */
static int32_t k_row_of(const k_signs *l, int32_t blocks)
{
    return l->paired ? 32 * blocks : 32;
}

/* The border of one plane: `pixels` pixels of it. */
static void k_fill_signs(const k_signs *l, uint8_t *to, int32_t pixels, int32_t plane)
{
    const int32_t width = l->lay.c / l->lay.groups, bytes = (width + 7) / 8;
    const uint32_t bits = l->fill >> plane & 1 ? 0xffu : 0u;
    int32_t i;
    memset(to, (int)(l->spread == 2 ? bits & 0xf0u : bits), (size_t)(pixels * l->lay.groups * l->part));
    for (i = 1; width % 8 && i <= pixels * l->lay.groups; i++)
        k_put_byte(l, to, i * bytes - 1, bits >> (8 * bytes - width));
}

/* The image in its border, in bits. */
static k_once void k_bordered_signs(const int8_t *x, const k_signs *l, const k_signs_set *set, uint8_t *copy)
{
    const k_panels *lay = &l->lay;
    const int32_t width = lay->c / lay->groups, pixel = lay->groups * l->part, line = lay->wide * pixel;
    const int32_t pieces = width % 8 ? lay->w * lay->groups : 1, count = width % 8 ? width : lay->w * lay->c; /* rows in one piece */
    const int32_t right = lay->wide - lay->left - lay->w;
    int32_t plane, y, i;
    for (plane = 0; plane < l->planes; plane++)
        for (y = 0; y < lay->high; y++, copy += line) {
            const int8_t *from = x + (y - lay->top) * lay->w * lay->c;
            if (y < lay->top || y >= lay->top + lay->h) {
                k_fill_signs(l, copy, lay->wide, plane);
                continue;
            }
            k_fill_signs(l, copy, lay->left, plane);
            if (l->packed)
                memcpy(copy + lay->left * pixel, (const uint8_t *)x + (y - lay->top) * lay->w * pixel, (size_t)(lay->w * pixel));
            for (i = 0; i < pieces && !l->packed; i++)
                set->pack(l, from + i * count, count, plane, copy + lay->left * pixel + i * l->part);
            k_fill_signs(l, copy + line - right * pixel, right, plane);
        }
}

/* What taps in the border add to the sums of pixel `place`. */
static void k_add_outside(const k_signs *l, int32_t place, const int16_t *outside, int32_t apart, int32_t *sums)
{
    const int32_t top = place / l->lay.ow * l->sy - l->lay.top, left = place % l->lay.ow * l->sx - l->lay.left;
    int32_t ky, kx, j;
    if (top >= 0 && left >= 0 && top + (l->kh - 1) * l->dy < l->lay.h && left + (l->kw - 1) * l->dx < l->lay.w)
        return;
    for (ky = 0; ky < l->kh; ky++)
        for (kx = 0; kx < l->kw; kx++, outside += apart) {
            const int32_t y = top + ky * l->dy, x = left + kx * l->dx;
            if (y < 0 || y >= l->lay.h || x < 0 || x >= l->lay.w)
                for (j = 0; j < 32; j++)
                    sums[j] += outside[j];
        }
}

/* Codes of `count` pixels of a block, as panels want them. */
static void k_by_panels(const k_signs *l, const k_panel_weight *w, k_store *store, int32_t *sums, int32_t count, int32_t panel, int32_t left,
                        int8_t *y)
{
    int32_t i;
    for (i = 1; left <= 16 && i < count; i++)
        memcpy(sums + 16 * i, sums + 32 * i, 16 * sizeof(int32_t));
    store(sums, count, left > 16 ? 2 : 1, w, panel, w->bias + panel * 16, y, l->lay.o, left);
}

/* A layer. `store` makes sums to codes, if `w` isn't NULL; `copy`: scratch for the planes of bits. */
static k_once void k_signs_i8(const int8_t *x, int8_t *y, const k_signs *l, const k_panel_weight *w, k_signs_set set, k_store *store,
                              uint8_t *copy)
{
    const int32_t outputs = l->lay.o / l->lay.groups, each = (outputs + 15) / 16, all = (outputs + 31) / 32;
    const int32_t size = l->lay.runs_y * l->lay.runs_x * l->lay.fours * 32, far = l->paired ? 32 : size;
    const int32_t pixels = l->lay.pixels, apart = l->lay.groups * all * 32;
    const uint8_t *image = copy;
    int32_t group, block, blocks, p, b, i, sums[2 * 8 * 32];
    if (l->packed && l->lay.high == l->lay.h && l->lay.wide == l->lay.w)
        image = (const uint8_t *)x;
    else
        k_bordered_signs(x, l, &set, copy);
    for (group = 0; group < l->lay.groups; group++)
        for (block = 0; block < all; block += blocks) {
            const uint8_t *weights = l->weights + (size_t)(group * all + block) * (size_t)size;
            blocks = all - block > 1 ? 2 : 1;
            for (p = 0; p < pixels; p += 8) {
                const int32_t count = pixels - p < 8 ? pixels - p : 8;
                const uint8_t *at[8];
                k_starts(&l->lay, image + group * l->part, p, at);
                set.tile(l, weights, far, blocks, at, count == 1, sums);
                for (b = 0; b < blocks; b++) {
                    const int32_t first = (block + b) * 32, left = outputs - first;
                    int32_t *part = sums + b * 8 * 32;
                    int8_t *to = w ? y + p * l->lay.o + group * outputs + first : y;
                    for (i = 0; l->outside && i < count; i++)
                        k_add_outside(l, p + i, l->outside + (group * all + block + b) * 32, apart, part + 32 * i);
                    for (i = 0; !w && i < count; i++)
                        set.bits(l, part + 32 * i, l->least + (group * all + block + b) * 32, left,
                                 (uint8_t *)y + (p + i) * l->pixel + (group * outputs + first) / 8 * l->spread);
                    if (w && set.codes && l->rounds && l->rounds[group * all + block + b])
                        set.codes(l, w, part, count, group * all + block + b, left, to);
                    else if (w)
                        k_by_panels(l, w, store, part, count, group * each + (block + b) * 2, left, to);
                }
            }
        }
}

/* The set that every machine has. Its bits: */
static void k_pack_plain(const k_signs *l, const int8_t *x, int32_t count, int32_t plane, uint8_t *to)
{
    int32_t j, i;
    for (j = 0; 8 * j < count; j++) {
        const int32_t most = count - 8 * j < 8 ? count - 8 * j : 8;
        uint32_t byte = 0;
        for (i = 0; i < most; i++) {
            const int32_t code = x[8 * j + i] - l->low;
            byte |= (l->planes == 1 ? (uint32_t)(code > 0) : (uint32_t)code >> plane & 1u) << i;
        }
        k_put_byte(l, to, j, byte);
    }
}

/* Its bits of sums. */
static void k_bits_plain(const k_signs *l, const int32_t *sums, const int32_t *least, int32_t left, uint8_t *to)
{
    int32_t j, i;
    for (j = 0; j < 4 && 8 * j < left; j++) {
        uint32_t byte = 0;
        for (i = 0; i < 8; i++)
            byte |= (uint32_t)(sums[8 * j + i] >= least[8 * j + i]) << i;
        k_put_byte(l, to, j, byte);
    }
}

/* A word of bytes that are counted side by side. */
#if UINTPTR_MAX > 0xffffffffu
typedef uint64_t k_bytes;
#else
typedef uint32_t k_bytes;
#endif

/* Ones of each byte of a word. */
static k_bytes k_ones(k_bytes v)
{
    const k_bytes every = ~(k_bytes)0;
    v -= v >> 1 & every / 3;
    v = (v & every / 5) + (v >> 2 & every / 5);
    return (v + (v >> 4)) & every / 17;
}

/* Ones of a run that differ from a block's weights, added to its thirty-two sums. Each step adds eight to a byte, at most. `row`: bytes of
 * weights that a step takes. */
static void k_differ_plain(const k_signs *l, const uint8_t *w, int32_t row, const uint8_t *p, uint16_t *sums)
{
    const int32_t words = (int32_t)(32 / sizeof(k_bytes)), bytes = l->lay.fours;
    uint8_t ones[32];
    k_bytes counts[32 / sizeof(k_bytes)];
    int32_t j, stop, k;
    for (j = 0; j < bytes; j = stop) {
        memset(counts, 0, sizeof counts);
        for (stop = j + 31 < bytes ? j + 31 : bytes; j < stop; j++, w += row) {
            const k_bytes x = (k_bytes)k_byte_of(l, p, j) * (~(k_bytes)0 / 255);
            k_bytes v[32 / sizeof(k_bytes)];
            memcpy(v, w, 32);
            for (k = 0; k < words; k++)
                counts[k] += k_ones(v[k] ^ x);
        }
        memcpy(ones, counts, 32);
        for (k = 0; k < 32; k++)
            sums[k] = (uint16_t)(sums[k] + ones[k]);
    }
}

/* Its sums. */
static void k_signs_tile_plain(const k_signs *l, const uint8_t *w, int32_t far, int32_t blocks, const uint8_t *const at[8], int32_t one,
                               int32_t *sums)
{
    const k_panels *lay = &l->lay;
    const int32_t row = k_row_of(l, blocks);
    int32_t b, i, plane, ry, rx, k;
    for (b = 0; b < blocks; b++)
        for (i = 0; i < (one ? 1 : 8); i++) {
            uint16_t counts[32] = {0};
            for (plane = l->planes - 1; plane >= 0; plane--) {
                const uint8_t *weights = w + b * far, *from = at[i] + plane * l->whole;
                for (k = 0; k < 32; k++)
                    counts[k] = (uint16_t)(counts[k] * 2);
                for (ry = 0; ry < lay->runs_y; ry++)
                    for (rx = 0; rx < lay->runs_x; rx++, weights += row * lay->fours)
                        k_differ_plain(l, weights, row, from + ry * lay->run_y + rx * lay->run_x, counts);
            }
            for (k = 0; k < 32; k++)
                sums[(b * 8 + i) * 32 + k] = -l->step * counts[k];
        }
}

/* The set. */
static k_signs_set k_signs_plain(void)
{
    const k_signs_set set = {k_pack_plain, k_signs_tile_plain, k_bits_plain, NULL};
    return set;
}

/* Codes to bits. A pixel that doesn't fill its last byte is a piece by itself. Both may lie at one place. */
static k_once void k_to_signs(const int8_t *x, int8_t *y, const k_signs *l, k_signs_set set)
{
    const int32_t channels = l->lay.c, pieces = channels % 8 ? l->lay.pixels : 1, count = channels % 8 ? channels : l->lay.pixels * channels;
    int32_t i;
    for (i = 0; i < pieces; i++)
        set.pack(l, x + i * count, count, 0, (uint8_t *)y + i * l->part);
}
