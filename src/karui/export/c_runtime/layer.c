/* What convolutions, depthwise convolutions and linear layers share: geometry, patches, requantization.
 *
 * Images are [h][w][c]; a 1-D sequence has h = 1, a linear layer is a 1×1 convolution over its rows. A patch is what one output pixel
 * sees, [kh][kw][c / groups], with zeros for padding; weights of a row lie in the same order.
 *
 * Kernels copy what their inner loops need into locals: a store to an int8_t may otherwise change anything, so the compiler reads it anew. */

#include <stdint.h>

/* Before a kernel that is compiled once, however many layers call it: copies would cost more bytes than they save time. */
#if defined(__GNUC__)
#define k_once __attribute__((noinline))
#else
#define k_once
#endif

/* After an array on the stack that vectors are stored to and read from: where they cross lines of the cache, each waits for the other. */
#if defined(__GNUC__)
#define k_lined __attribute__((aligned(64)))
#else
#define k_lined
#endif

/* Sizes of a layer. `tile`: rows that are decoded at a time, so that a decoder's work is shared by all pixels. */
typedef struct {
    int32_t h, w, c, oh, ow, o, kh, kw, sy, sx, top, left, dy, dx, groups, tile;
    int32_t most;   /* stored weights in the fullest row */
    int32_t stride; /* from row to row of a tile; what lies behind a row and behind the patch is zero */
} k_layer;

/* From sums to int8: y = (Σ sum · multiplier + bias) >> shift, clamped; tables have one entry per output channel. */
typedef struct {
    const int32_t *multiplier;
    const int64_t *bias;
    const uint8_t *shift;
    int32_t zero;      /* zero point of the input */
    int32_t low, high; /* codes */
} k_requant;

/* The one place where sums become codes. `>>` of a negative number is arithmetic on every compiler we know of. */
static int8_t k_requantize(const k_requant *q, int32_t row, int64_t product)
{
    const int64_t v = (product + q->bias[row]) >> q->shift[row];
    return (int8_t)(v < q->low ? q->low : v > q->high ? q->high : v);
}

/* One kernel row of a patch lies in one piece where taps are neighbours and the group is all channels. `from` … `to`: taps inside. */
static void k_taps(int32_t start, int32_t step, int32_t count, int32_t size, int32_t *from, int32_t *to)
{
    *from = start < 0 ? (-start + step - 1) / step : 0;
    *to = start >= size ? 0 : (size - 1 - start) / step + 1;
    if (*to > count)
        *to = count;
    if (*from > *to)
        *from = *to;
}
