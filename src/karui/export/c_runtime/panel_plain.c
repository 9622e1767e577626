/* Panels in plain C: what every set begins with. */

#include <stdint.h>
#include <string.h>

/* A byte of the copy. */
static int32_t k_byte(const k_panels *l, const uint8_t *p)
{
    return l->unsign ? *p : (int8_t)*p;
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
                    sums[o] += k_byte(l, at[i] + ry * l->run_y + rx * l->run_x + o) * tap[o];
    }
}

/* Its bytes. */
static void k_copy_plain(const int8_t *restrict x, uint8_t *restrict y, int32_t count, int32_t unsign)
{
    const uint8_t by = (uint8_t)unsign;
    int32_t i;
    for (i = 0; i < count; i++)
        y[i] = (uint8_t)((uint8_t)x[i] ^ by);
}

/* Its table, eight at a time: a loop's own work would be much of one. */
static void k_lookup_plain(const void *x, void *y, int32_t count, const void *table)
{
    const uint8_t *from = x, *codes = table;
    uint8_t *to = y;
    int32_t i, j;
    for (i = 0; i + 8 <= count; i += 8)
        for (j = 0; j < 8; j++)
            to[i + j] = codes[from[i + j]];
    for (; i < count; i++)
        to[i] = codes[from[i]];
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
                                sums[o] += k_byte(l, from + k) * row[o * 4 + k];
                }
        }
}

/* Its codes. */
static void k_store_plain(const int32_t *sums, int32_t count, int32_t panels, const k_panel_weight *w, int32_t panel, const int64_t *bias,
                          int8_t *y, int32_t o, int32_t left)
{
    const int32_t low = w->low, high = w->high;
    int32_t i, j;
    for (i = 0; i < count; i++, y += o)
        for (j = 0; j < 16 * panels; j++, sums++) {
            const int32_t place = j / 16 * 16 + j % 2 * 8 + j % 16 / 2;
            const int64_t v = ((int64_t)*sums * w->multiplier[panel * 16 + j] + bias[place]) >> w->shift[panel * 16 + place];
            if (j < left)
                y[j] = (int8_t)(v < low ? low : v > high ? high : v);
        }
}
