/* Layers of floats in panels, for machines with vectors: sixteen output channels side by side, and six pixels at a time, each of whose
 * inputs meets all sixteen. */

#include <stdint.h>
#include <string.h>

/* Pixels that a patch is made for at once, at most: sixteen times six. */
#define k_floats_most 96

/* What a set of instructions brings: sums[6][panels][16] of six pixels (of one only, where `one`) and one or two panels, which lie `inputs`
 * times sixteen numbers apart. */
typedef struct {
    void (*tile)(const float *const at[6], const float *w, int32_t inputs, int32_t panels, int32_t one, float *sums);
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

/* And its table. */
static k_floats k_floats_plain(void)
{
    k_floats set;
    set.tile = k_floats_tile_plain;
    return set;
}

/* Sums of a pixel to results: with bias, clamped. */
static void k_floats_end(const float *sums, const k_finish *f, int32_t first, int32_t count, float *y)
{
    const float low = f->low, high = f->high;
    int32_t j;
    for (j = 0; j < count; j++) {
        const float v = f->bias ? sums[j] + f->bias[first + j] : sums[j];
        y[j] = v < low ? low : v > high ? high : v;
    }
}

/* A layer. `weights`: [groups][panels][inputs][16]; what fills up is zero. `patch_of`: one of those of rows in full, or NULL where a pixel sees one
 * pixel of the image; `patch`: scratch [tile][inputs] for it. `tile`, of `l`: pixels whose patches are made before panels meet them. */
static k_once void k_floats_f32(const float *x, float *y, const k_layer *l, const float *weights, int32_t inputs, const k_finish *f,
                                void (*patch_of)(const float *, const k_layer *, int32_t, int32_t, int32_t, float *), k_floats set,
                                float *patch)
{
    const int32_t outputs = l->o / l->groups, each = (outputs + 15) / 16, pixels = l->oh * l->ow;
    const float *at[k_floats_most];
    float sums[6 * 32];
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
                const int32_t left = outputs - q * 16 < 32 ? outputs - q * 16 : 32;
                const float *w = weights + (group * each + q) * inputs * 16;
                for (p = 0; p < count; p += 6) {
                    set.tile(at + p, w, inputs, panels, count == 1, sums);
                    for (i = 0; i < 6 && p + i < count; i++)
                        k_floats_end(sums + i * panels * 16, f, first, left, y + (from + p + i) * l->o + first);
                }
            }
        }
}
