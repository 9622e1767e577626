/* Linear layers of one pixel whose weights are numbers of one, two or four bits, for Cortex-M: there is nothing to decode them for.
 *
 * Half a word of weights holds 16 bits of them. The same place in both halves is two numbers of 16 bits as they lie, once the others are masked
 * out, and meets the two inputs that stand as far apart. Numbers are what codes are without a sign; what that adds to a sum is the same for all
 * rows but for the factor: the sum of the inputs. */

#include <stdint.h>

/* The sums of two rows. `pairs`: inputs as they meet a word of weights, so many words of both rows. */
static void k_packed_rows(const uint8_t *a, const uint8_t *b, int32_t words, int32_t bits, const int32_t *pairs, int32_t sums[2])
{
    const uint32_t mask = ((1u << bits) - 1u) * 0x00010001u;
    int32_t first = 0, second = 0, i, j;
    for (i = 0; i < words; i++, a += 4, b += 4) {
        const uint32_t v = k_word((const int8_t *)a), u = k_word((const int8_t *)b);
        for (j = 0; j < 16; j += bits) {
            const int32_t x = *pairs++;
            first = k_both((int32_t)(v >> j & mask), x, first);
            second = k_both((int32_t)(u >> j & mask), x, second);
        }
    }
    sums[0] = first;
    sums[1] = second;
}

/* A layer. `pairs`: scratch for two inputs a word. Rows fill whole words; an odd one at the end goes with the one before it. */
static k_once void k_packed_one_i8(const int8_t *x, int8_t *y, int32_t inputs, int32_t outputs, const uint8_t *stream, int32_t bits, int32_t step,
                                   int32_t offset, const k_requant *q, int32_t *pairs)
{
    const int32_t half = 16 / bits, words = inputs / half / 2;
    int32_t i, j, row, total = 0;
    for (i = 0; i < inputs; i++)
        total += x[i];
    for (i = 0; i < inputs; i += 2 * half)
        for (j = 0; j < half; j++)
            pairs[i / 2 + j] = (int32_t)((uint32_t)x[i + j] % 65536u | (uint32_t)x[i + j + half] << 16);
    for (row = 0; row < outputs; row += 2) {
        const int32_t at = row + 2 <= outputs ? row : outputs - 2;
        const uint8_t *a = stream + at * words * 4, *b = a + words * 4;
        int32_t sums[2];
        if (bits == 4)
            k_packed_rows(a, b, words, 4, pairs, sums);
        else if (bits == 2)
            k_packed_rows(a, b, words, 2, pairs, sums);
        else
            k_packed_rows(a, b, words, 1, pairs, sums);
        for (i = 0; i < 2; i++)
            y[at + i] = k_requantize(q, at + i, (int64_t)(step * sums[i] - offset * total) * q->multiplier[at + i]);
    }
}
