/* Layers of floats in panels, for machines with vectors: sixteen output channels side by side, and six pixels at a time, each of whose
 * inputs meets all sixteen. */

#include <stdint.h>
#include <string.h>

/* Pixels that a patch is made for at once, at most: sixteen times six. */
#define k_floats_most 96

/* What a pixel of a depthwise layer sees: `taps` of [rows][columns], from tap to tap and from line to line of the image and of the weights. */
typedef struct {
    int32_t rows, columns;
    int32_t step, line, weight_step, weight_line;
} k_floats_window;

/* What a set of instructions brings. `tile`: sums[6][panels][16] of six pixels (of one only, where `one`) and one or two panels, which lie `inputs`
 * times sixteen numbers apart. `depth`: sums[16] of sixteen channels of a depthwise layer's pixel.
 * `end`: sixteen sums with their biases from `first` on, clamped. */
typedef struct {
    void (*tile)(const float *const at[6], const float *w, int32_t inputs, int32_t panels, int32_t one, float *sums);
    void (*depth)(const float *x, const float *taps, const k_floats_window *seen, float *sums);
    void (*end)(const float *sums, const k_finish *f, int32_t first, float *y);
} k_floats;

/* The set that every machine has. */
static void k_floats_tile_plain(const float *const at[6], const float *w, int32_t inputs, int32_t panels, int32_t one, float *sums)
{
    int32_t p, q, i, j;
    for (p = 0; p < (one ? 1 : 6); p++)
        for (q = 0; q < panels; q++, sums += 16) {
            const float *row = w + q * inputs * 16;
            memset(sums, 0, 16 * sizeof(float));
            for (i = 0; i < inputs; i++, row += 16)
                for (j = 0; j < 16; j++)
                    sums[j] += at[p][i] * row[j];
        }
}

/* Its depthwise sums. */
static void k_floats_depth_plain(const float *x, const float *taps, const k_floats_window *seen, float *sums)
{
    int32_t ry, rx, j;
    memset(sums, 0, 16 * sizeof(float));
    for (ry = 0; ry < seen->rows; ry++)
        for (rx = 0; rx < seen->columns; rx++) {
            const float *pixel = x + ry * seen->line + rx * seen->step, *tap = taps + ry * seen->weight_line + rx * seen->weight_step;
            for (j = 0; j < 16; j++)
                sums[j] += pixel[j] * tap[j];
        }
}

/* Its results. */
static void k_floats_end_plain(const float *sums, const k_finish *f, int32_t first, float *y)
{
    int32_t j;
    for (j = 0; j < 16; j++)
        y[j] = k_finished(f, first + j, sums[j]);
}

/* And its table. */
static k_floats k_floats_plain(void)
{
    k_floats set;
    set.tile = k_floats_tile_plain;
    set.depth = k_floats_depth_plain;
    set.end = k_floats_end_plain;
    return set;
}

/* Up to sixteen sums of a pixel to results. */
static void k_floats_end(const k_floats *set, const float *sums, const k_finish *f, int32_t first, int32_t left, float *y)
{
    int32_t j;
    if (left >= 16)
        set->end(sums, f, first, y);
    else
        for (j = 0; j < left; j++)
            y[j] = k_finished(f, first + j, sums[j]);
}

/* A layer. `weights`: [groups][panels][inputs][16]; what fills up is zero. `patch_of`: one of those of rows in full, or NULL where a pixel sees one
 * pixel of the image; `patch`: scratch [tile][inputs] for it. `tile`, of `l`: pixels whose patches are made before panels meet them. */
static k_once void k_floats_f32(const float *x, float *y, const k_layer *l, const float *weights, int32_t inputs, const k_finish *f,
                                void (*patch_of)(const float *, const k_layer *, int32_t, int32_t, int32_t, float *), k_floats set,
                                float *patch)
{
    const int32_t outputs = l->o / l->groups, each = (outputs + 15) / 16, pixels = l->oh * l->ow;
    const float *at[k_floats_most];
    float sums[6 * 32] k_lined;
    int32_t group, from, count, i, p, q;
    for (group = 0; group < l->groups; group++)
        for (from = 0; from < pixels; from += count) {
            count = pixels - from < l->tile ? pixels - from : l->tile;
            for (i = 0; i < count; i++) {
                const int32_t oy = (from + i) / l->ow, ox = (from + i) % l->ow;
                at[i] = patch_of ? patch + i * inputs : x + (oy * l->sy * l->w + ox * l->sx) * l->c + group * inputs;
                if (patch_of)
                    patch_of(x, l, oy, ox, group, patch + i * inputs);
            }
            for (; i % 6; i++)
                at[i] = at[count - 1]; /* stands in for those behind it */
            for (q = 0; q < each; q += 2) {
                const int32_t panels = each - q < 2 ? 1 : 2, first = group * outputs + q * 16;
                const int32_t left = outputs - q * 16;
                const float *w = weights + (group * each + q) * inputs * 16;
                for (p = 0; p < count; p += 6) {
                    set.tile(at + p, w, inputs, panels, count == 1, sums);
                    for (i = 0; i < 6 && p + i < count; i++) {
                        const float *sum = sums + i * panels * 16;
                        float *to = y + (from + p + i) * l->o + first;
                        k_floats_end(&set, sum, f, first, left, to);
                        if (panels == 2)
                            k_floats_end(&set, sum + 16, f, first + 16, left - 16, to + 16);
                    }
                }
            }
        }
}

/* One filter for each channel. `taps`: [kh · kw][channels]. Sixteen channels at a time; those left over go with the sixteen that end with
 * them. */
static k_once void k_floats_depth_f32(const float *x, float *y, const k_layer *l, const float *taps, const k_finish *f, k_floats set)
{
    const int32_t channels = l->c;
    k_floats_window seen = {0, 0, l->dx * channels, l->dy * l->w * channels, channels, l->kw * channels};
    int32_t oy, ox, c, from, to, up, down;
    float sums[16] k_lined;
    for (oy = 0; oy < l->oh; oy++) {
        const int32_t top = oy * l->sy - l->top;
        k_taps(top, l->dy, l->kh, l->h, &up, &down);
        seen.rows = down - up;
        for (ox = 0; ox < l->ow; ox++, y += channels) {
            const int32_t left = ox * l->sx - l->left;
            const float *first, *tap;
            k_taps(left, l->dx, l->kw, l->w, &from, &to);
            seen.columns = to - from;
            first = seen.rows > 0 && seen.columns > 0 ? x + ((top + up * l->dy) * l->w + left + from * l->dx) * channels : x;
            tap = taps + (up * l->kw + from) * channels;
            for (c = 0; c < channels; c += 16) {
                const int32_t at = c + 16 <= channels ? c : channels - 16;
                set.depth(first + at, tap + at, &seen, sums);
                k_floats_end(&set, sums, f, at, 16, y + at);
            }
        }
    }
}
