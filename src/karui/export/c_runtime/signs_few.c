/* Layers of signs of few pixels on Cortex-M: tables would serve just those, so ones are counted. Four bits of eight channels are a word, and
 * so are a pixel's four bits, eight times; where both differ a bit is one. Eight such words become one by full adders before anything is
 * counted: then its ones stand for eight. */

#include <stdint.h>
#include <string.h>

/* Eights of words that are counted before a byte of counts might be full. */
#define k_ones_most 60

/* Ones of each four bits. */
static uint32_t k_ones_of_four(uint32_t v)
{
    v -= v >> 1 & 0x55555555u;
    return (v & 0x33333333u) + (v >> 2 & 0x33333333u);
}

/* Bits that differ, of `eights` eights of words: left over are [0] ones, [1] twos, [2] fours; of the eights' counts [3] holds the even ones,
 * each in a byte, and [4] the others and sixteen times the next even one. */
#if defined(K_DSP)
#define k_adder(sum, a, b, t, carry) \
    "eor " t ", " a ", " b "\n\tand " a ", " a ", " b "\n\tand " b ", " t ", " sum "\n\teor " sum ", " sum ", " t "\n\torr " carry ", " a \
    ", " b "\n\t"
#define k_two(carry) \
    "ldrd r9, r10, [r1], #8\n\tldrd r11, r12, [r0], #8\n\teor r9, r9, r11\n\teor r10, r10, r12\n\t" k_adder("r4", "r9", "r10", "r11", carry)
static __attribute__((naked, noinline)) void k_ones_count(const uint32_t *column __attribute__((unused)),
                                                          const int32_t *weights __attribute__((unused)), int32_t eights __attribute__((unused)),
                                                          uint32_t *left __attribute__((unused)))
{
    __asm__ volatile(
        ".syntax unified\n\t"
        "push {r3, r4, r5, r6, r7, r8, r9, r10, r11, lr}\n\t"
        "movs r4, #0\n\t"
        "movs r5, #0\n\t"
        "movs r6, #0\n\t"
        "movs r7, #0\n\t"
        "mov r8, #0\n\t"
        "1:\n\t"
        k_two("lr") k_two("r9") k_adder("r5", "lr", "r9", "r11", "r3")
        k_two("lr") k_two("r9") k_adder("r5", "lr", "r9", "r11", "lr")
        k_adder("r6", "r3", "lr", "r11", "r9")
        "lsr r10, r9, #1\n\t"
        "and r10, r10, #0x55555555\n\t"
        "sub r9, r9, r10\n\t"
        "lsr r10, r9, #2\n\t"
        "and r9, r9, #0x33333333\n\t"
        "and r10, r10, #0x33333333\n\t"
        "add r9, r9, r10\n\t"
        "and r10, r9, #0x0f0f0f0f\n\t"
        "add r8, r8, r9, lsr #4\n\t"
        "add r7, r7, r10\n\t"
        "subs r2, r2, #1\n\t"
        "bne 1b\n\t"
        "pop {r3}\n\t"
        "stm r3, {r4, r5, r6, r7, r8}\n\t"
        "pop {r4, r5, r6, r7, r8, r9, r10, r11, pc}\n\t");
}
#else /* a full adder of 32 bits: a, b and `sum` become `sum` and what is returned, which counts double */
static uint32_t k_full(uint32_t *sum, uint32_t a, uint32_t b)
{
    const uint32_t odd = a ^ b, carry = (a & b) | (odd & *sum);
    *sum ^= odd;
    return carry;
}

static void k_ones_count(const uint32_t *column, const int32_t *weights, int32_t eights, uint32_t *left)
{
    int32_t i;
    memset(left, 0, 5 * sizeof(uint32_t));
    for (; eights; eights--) {
        uint32_t fours[2], v;
        for (i = 0; i < 2; i++, column += 4, weights += 4) {
            const uint32_t a = k_full(left, column[0] ^ (uint32_t)weights[0], column[1] ^ (uint32_t)weights[1]);
            const uint32_t b = k_full(left, column[2] ^ (uint32_t)weights[2], column[3] ^ (uint32_t)weights[3]);
            fours[i] = k_full(left + 1, a, b);
        }
        v = k_ones_of_four(k_full(left + 2, fours[0], fours[1]));
        left[3] += v & 0x0f0f0f0fu;
        left[4] += v >> 4;
    }
}
#endif

/* What is left, added to the sums of eight channels. */
static void k_ones_sums(const uint32_t left[5], uint32_t sums[4])
{
    const uint32_t bytes = 0x0f0f0f0fu, halves = 0x00ff00ffu, few = k_ones_of_four(left[0]) + 2 * k_ones_of_four(left[1]);
    const uint32_t fours = k_ones_of_four(left[2]), many[2] = {left[3], left[4] - ((left[3] & ~255u) >> 4)};
    int32_t k;
    for (k = 0; k < 2; k++) {
        const uint32_t rest = (few >> 4 * k & bytes) + 4 * (fours >> 4 * k & bytes);
        sums[2 * k] += 8 * (many[k] & halves) + (rest & halves);
        sums[2 * k + 1] += 8 * (many[k] >> 8 & halves) + (rest >> 8 & halves);
    }
}

/* A plane of a pixel's bits, four of them eight times in a word; what fills up is zero. */
static void k_ones_column(const k_panels *lay, const uint8_t *at, uint32_t *column, const uint32_t *end)
{
    int32_t ry, rx, j;
    for (ry = 0; ry < lay->runs_y; ry++)
        for (rx = 0; rx < lay->runs_x; rx++)
            for (j = 0; j < 2 * lay->fours; j++)
                *column++ = (uint32_t)(at[ry * lay->run_y + rx * lay->run_x + j] >> 4) * 0x11111111u;
    while (column < end)
        *column++ = 0;
}

/* A layer. `column`: scratch for a pixel's, of all planes; `kept`: for the sums of sixteen channels. */
static k_once void k_signs_few(const int8_t *x, int8_t *y, const k_signs *l, const k_tabled *t, k_signs_set set, uint8_t *copy,
                               int32_t *column, int32_t *kept)
{
    const int32_t outputs = l->lay.o / l->lay.groups, each = (outputs + 7) / 8, words = 8 * t->count;
    const uint8_t *image = copy;
    uint32_t *const bits = (uint32_t *)column, *const sums = (uint32_t *)kept;
    int32_t group, place, first, plane, half, i, few;
    if (l->packed && l->lay.high == l->lay.h && l->lay.wide == l->lay.w)
        image = (const uint8_t *)x;
    else
        k_bordered_signs(x, l, &set, copy);
    for (group = 0; group < l->lay.groups; group++, image += l->part)
        for (place = 0; place < l->lay.pixels; place++) {
            const uint8_t *at = image + place / l->lay.ow * l->lay.down + place % l->lay.ow * l->lay.along;
            const int32_t *weights = t->weights + group * each * words;
            for (plane = 0; plane < l->planes; plane++)
                k_ones_column(&l->lay, at + plane * l->whole, bits + plane * words, bits + (plane + 1) * words);
            for (first = 0; first < outputs; first += 16) {
                memset(sums, 0, (size_t)l->planes * 8 * sizeof(uint32_t));
                for (half = 0; half < 2 && first + 8 * half < outputs; half++, weights += words)
                    for (plane = 0; plane < l->planes; plane++)
                        for (i = 0; i < t->count; i += few) {
                            uint32_t left[5];
                            few = t->count - i < k_ones_most ? t->count - i : k_ones_most;
                            k_ones_count(bits + plane * words + 8 * i, weights + 8 * i, few, left);
                            k_ones_sums(left, sums + 8 * plane + 4 * half);
                        }
                k_table_store(l, t, place, 1, group, first / 16, sums, y);
            }
        }
}
