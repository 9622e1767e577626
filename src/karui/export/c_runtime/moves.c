/* Moving values: one strided copy serves transpose, slice, concat, pad and nearest upsampling, of any element size. */

#include <stdint.h>
#include <string.h>

/* One axis of a nested loop: how often, and how far two pointers go each time. */
typedef struct {
    int32_t count, a, b;
} k_axis;

/* Copies along `axes` axes with strides in bytes; behind them stands one more entry, whose count is the bytes of a piece. */
static void k_move(const int8_t *x, int8_t *y, const k_axis *axis, int32_t axes)
{
    int32_t i;
    if (axes == 0)
        memcpy(y, x, (size_t)axis->count);
    else
        for (i = 0; i < axis->count; i++)
            k_move(x + i * axis->a, y + i * axis->b, axis + 1, axes - 1);
}

/* The same value everywhere. */
static void k_fill_i8(int8_t *y, int32_t count, int8_t value)
{
    memset(y, value, (size_t)count);
}

/* The same value everywhere. */
static void k_fill_f32(float *y, int32_t count, float value)
{
    while (count--)
        *y++ = value;
}

/* Table [256], or one for each channel (`step` = 256); from pixels. */
static void k_lookup_u8(const uint8_t *x, int8_t *y, int32_t pixels, int32_t channels, const int8_t *table, int32_t step)
{
    int32_t i, c;
    for (i = 0; i < pixels; i++)
        for (c = 0; c < channels; c++)
            *y++ = table[c * step + *x++];
}

/* The same from codes; the table begins with code −128. */
static void k_lookup_i8(const int8_t *x, int8_t *y, int32_t pixels, int32_t channels, const int8_t *table, int32_t step)
{
    int32_t i, c;
    for (i = 0; i < pixels; i++)
        for (c = 0; c < channels; c++)
            *y++ = table[c * step + *x++ + 128];
}

/* Rows of a weight, one for each code; returns 0, or 2 for a code outside the table. */
static int k_embedding(const int32_t *codes, float *y, int32_t count, int32_t rows, const k_weight *w, k_index *index, float *stored)
{
    int32_t i, row;
    for (i = 0; i < count; i++, y += w->inputs) {
        k_cursor cursor = k_start();
        if (codes[i] < 0 || codes[i] >= rows)
            return 2;
        if (!w->where) {
            cursor.value = (uint32_t)codes[i] * (uint32_t)w->inputs;
            k_row_reals(w, &cursor, codes[i], index, stored, y);
        } else /* rows of lists differ in length: walk there */
            for (row = 0; row <= codes[i]; row++)
                k_row_reals(w, &cursor, row, index, stored, y);
    }
    return 0;
}
