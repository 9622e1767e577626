/* Layers in panels whose weights are −1, 0 and +1 with two scales a channel, one for each sign: sums over the +1 and sums over the −1 are two
 * panels that meet the same inputs. */

#include <stdint.h>
#include <string.h>

/* y = (sum over +1 · positive + sum over −1 · weight.multiplier + weight.bias) >> weight.shift. */
typedef struct {
    const k_weight *coded;
    const int32_t *positive; /* as weight.multiplier lies */
    const k_panel_weight *weight;
    void (*raise)(const k_set *set, const int32_t *sums, int32_t far, int32_t count, const int32_t *multiplier, const int64_t *bias,
                  int64_t *raised);
} k_pair_weight;

/* Two panels of up to sixteen rows, which are read in order: ones where codes are +1, and ones where they are −1. */
static void k_unpack_pair(const k_panels *l, const k_weight *w, k_cursor *cursor, int32_t first, int32_t rows, int32_t deep, k_index *index,
                          int8_t *stored, int8_t *row, int8_t *unpacked)
{
    const int32_t runs = l->runs_y * l->runs_x, length = l->length, step = deep == 4 ? l->fours * 64 : 16, size = runs * step;
    int32_t j, r, i;
    memset(unpacked, 0, (size_t)size * 2);
    for (j = 0; j < rows; j++) {
        int8_t *to = unpacked + j * deep;
        const int8_t *from = row;
        k_row_codes(w, cursor, first + j, index, stored, row);
        for (r = 0; r < runs; r++, from += length, to += step) {
            const int32_t whole = deep == 4 ? length / 4 * 4 : 0;
            for (i = 0; i < whole; i += 4) {
                uint32_t plus, minus;
                memcpy(&plus, from + i, 4);
                minus = plus >> 7 & 0x01010101u;
                plus = (plus & 0x01010101u) ^ minus;
                memcpy(to + 16 * i, &plus, 4);
                memcpy(to + 16 * i + size, &minus, 4);
            }
            for (; i < length; i++) {
                to[i / deep * 16 * deep + i % deep] = from[i] > 0;
                to[i / deep * 16 * deep + i % deep + size] = from[i] < 0;
            }
        }
    }
}

/* What the first sums of some pixels, `far` apart, add to a panel's biases: [count][16], even channels first. */
static void k_raise_plain(const k_set *set, const int32_t *sums, int32_t far, int32_t count, const int32_t *multiplier, const int64_t *bias,
                          int64_t *raised)
{
    int32_t i, j;
    (void)set;
    for (i = 0; i < count; i++, sums += far, raised += 16)
        for (j = 0; j < 8; j++) {
            raised[j] = bias[j] + (int64_t)sums[2 * j] * multiplier[2 * j];
            raised[j + 8] = bias[j + 8] + (int64_t)sums[2 * j + 1] * multiplier[2 * j + 1];
        }
}

/* The same by AVX2. */
#if defined(K_X86)
static k_avx2 void k_raise_avx2(const int32_t *sums, int32_t far, int32_t count, const int32_t *multiplier, const int64_t *bias,
                                int64_t *raised)
{
    int32_t i, j;
    for (i = 0; i < count; i++, sums += far, raised += 16)
        for (j = 0; j < 8; j += 4) {
            const __m256i s = k_long_avx2(sums + 2 * j), m = k_long_avx2(multiplier + 2 * j);
            const __m256i even = _mm256_mul_epi32(s, m), odd = _mm256_mul_epi32(_mm256_srli_epi64(s, 32), _mm256_srli_epi64(m, 32));
            _mm256_storeu_si256((__m256i *)(void *)(raised + j), _mm256_add_epi64(even, k_long_avx2(bias + j)));
            _mm256_storeu_si256((__m256i *)(void *)(raised + j + 8), _mm256_add_epi64(odd, k_long_avx2(bias + j + 8)));
        }
}
#endif

/* The same on x86-64. */
static void k_raise_x86(const k_set *set, const int32_t *sums, int32_t far, int32_t count, const int32_t *multiplier, const int64_t *bias,
                        int64_t *raised)
{
#if defined(K_X86)
    if (set->store != k_store_plain) {
        k_raise_avx2(sums, far, count, multiplier, bias, raised);
        return;
    }
#endif
    k_raise_plain(set, sums, far, count, multiplier, bias, raised);
}

/* Codes of some pixels and a panel: `far` from a pixel's sums over +1 to the next one's, `other` from them to those over −1. */
static void k_pair_codes(const k_pair_weight *pair, const k_set *set, const int32_t *sums, int32_t far, int32_t other, int32_t count,
                         int32_t panel, int8_t *y, int32_t o, int32_t left)
{
    const k_panel_weight *w = pair->weight;
    int32_t i;
    int64_t raised[8 * 16];
    pair->raise(set, sums, far, count, pair->positive + panel * 16, w->bias + panel * 16, raised);
    for (i = 0; i < count; i++)
        set->store(sums + i * far + other, 1, 1, w, panel, raised + i * 16, y + i * o, o, left);
}

/* A layer. `deep`: 4, or 1 for a depthwise one. `unpacked`: scratch for two panels; the rest as other layers in panels have it. */
static k_once void k_pair_i8(const int8_t *x, int8_t *y, const k_panels *l, const k_pair_weight *pair, const k_set *set, int32_t deep,
                             uint8_t *copy, int8_t *unpacked, int8_t *row, k_index *index, int8_t *stored)
{
    const int32_t groups = deep == 4 ? l->groups : 1, outputs = l->o / groups, each = (outputs + 15) / 16;
    const int32_t size = l->runs_y * l->runs_x * (deep == 4 ? l->fours * 64 : 16);
    const int32_t far = deep == 4 ? 32 : 16, other = deep == 4 ? 16 : 128; /* from pixel to pixel, and to the sums over −1 */
    k_cursor cursor = k_start();
    int32_t group, q, p, sums[8 * 32];
    k_bordered(x, l, set, copy);
    for (group = 0; group < groups; group++)
        for (q = 0; q < each; q++) {
            const int32_t first = group * outputs + q * 16, left = outputs - q * 16, panel = group * each + q;
            k_unpack_pair(l, pair->coded, &cursor, first, left < 16 ? left : 16, deep, index, stored, row, unpacked);
            for (p = 0; p < l->pixels; p += 8) {
                const int32_t count = l->pixels - p < 8 ? l->pixels - p : 8;
                const uint8_t *at[8];
                k_starts(l, copy + (deep == 4 ? group * l->length : first), p, at);
                if (deep == 4) {
                    set->tile(l, unpacked, size, 2, at, count == 1, sums);
                } else {
                    set->depth(l, unpacked, at, sums);
                    set->depth(l, unpacked + size, at, sums + other);
                }
                k_pair_codes(pair, set, sums, far, other, count, panel, y + p * l->o + first, l->o, left);
            }
        }
}
