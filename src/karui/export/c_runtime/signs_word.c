/* Layers of signs where words are 32 bits and registers few, as on Cortex-M: four channels in a word, three bytes of bits at a time. For
 * layers of one pixel, to which tables (signs_table.c) take too long to make; and bits of codes for all of them.
 *
 * Three words become two by a full adder, so that what counts ones in nibbles is done twice for three words and not thrice. */

#include <stdint.h>
#include <string.h>

/* Bytes of bits that are counted before a byte of counts might be full: ten times three, each up to 24. */
#define k_bits_most 30

/* Ones of each byte of three words. */
static uint32_t k_ones_of_three(uint32_t a, uint32_t b, uint32_t c)
{
    const uint32_t fives = 0x55555555u, threes = 0x33333333u, low = 0x0f0f0f0fu, odd = a ^ b;
    uint32_t once = odd ^ c, twice = (a & b) | (odd & c);
    once -= once >> 1 & fives;
    twice -= twice >> 1 & fives;
    once = (once & threes) + (once >> 2 & threes) + 2 * ((twice & threes) + (twice >> 2 & threes));
    return (once & low) + (once >> 4 & low);
}

/* Ones that differ between a column and `fours` fours of channels, a count in each byte of `ones`; the column's bytes go by threes. */
#if defined(K_DSP)
static __attribute__((naked, noinline)) void k_bits_count(const uint32_t *column __attribute__((unused)), int32_t threes __attribute__((unused)),
                                                          const uint8_t *w __attribute__((unused)), uint32_t *ones __attribute__((unused)),
                                                          int32_t fours __attribute__((unused)))
{
    __asm__ volatile(
        ".syntax unified\n\t"
        "push {r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12, lr}\n\t"
        "mov r9, #0x55555555\n\t"
        "mov r10, #0x33333333\n\t"
        "mov r11, #0x0f0f0f0f\n\t"
        "1:\n\t"
        "ldr r0, [sp]\n\t"
        "ldrd r12, r1, [sp, #4]\n\t"
        "movs r8, #0\n\t"
        "2:\n\t"
        "ldm r0!, {r2, r3, r4}\n\t"
        "ldr r6, [r1, #32]\n\t"
        "ldr r7, [r1, #64]\n\t"
        "ldr r5, [r1], #96\n\t"
        "eors r3, r6\n\t"
        "eors r4, r7\n\t"
        "eors r2, r5\n\t"
        "eor r5, r2, r3\n\t"
        "ands r2, r3\n\t"
        "and r6, r5, r4\n\t"
        "eors r5, r4\n\t"
        "orrs r2, r6\n\t"
        "and r3, r9, r5, lsr #1\n\t"
        "and r4, r9, r2, lsr #1\n\t"
        "subs r5, r5, r3\n\t"
        "subs r2, r2, r4\n\t"
        "and r3, r10, r5, lsr #2\n\t"
        "and r4, r10, r2, lsr #2\n\t"
        "and r5, r5, r10\n\t"
        "and r2, r2, r10\n\t"
        "adds r5, r5, r3\n\t"
        "adds r2, r2, r4\n\t"
        "add r5, r5, r2, lsl #1\n\t"
        "and r3, r11, r5, lsr #4\n\t"
        "and r5, r5, r11\n\t"
        "add r8, r8, r3\n\t"
        "add r8, r8, r5\n\t"
        "subs r12, r12, #1\n\t"
        "bne 2b\n\t"
        "ldrd r2, r3, [sp, #8]\n\t" /* w, ones */
        "ldr r4, [sp, #56]\n\t"     /* fours, the fifth argument */
        "str r8, [r3], #4\n\t"
        "adds r2, #4\n\t"
        "strd r2, r3, [sp, #8]\n\t"
        "subs r4, #1\n\t"
        "str r4, [sp, #56]\n\t"
        "bne 1b\n\t"
        "pop {r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12, pc}\n\t");
}
#else
static void k_bits_count(const uint32_t *column, int32_t threes, const uint8_t *w, uint32_t *ones, int32_t fours)
{
    int32_t k, i;
    for (k = 0; k < fours; k++) {
        uint32_t sum = 0, v[3];
        for (i = 0; i < threes; i++) {
            memcpy(v, w + 96 * i + 4 * k, 4);
            memcpy(v + 1, w + 96 * i + 4 * k + 32, 4);
            memcpy(v + 2, w + 96 * i + 4 * k + 64, 4);
            sum += k_ones_of_three(v[0] ^ column[3 * i], v[1] ^ column[3 * i + 1], v[2] ^ column[3 * i + 2]);
        }
        ones[k] = sum;
    }
}
#endif

/* The same for any number of bytes: what differs, less than 256, is taken from the sums, or begins them. */
static void k_bits_differ(const uint32_t *column, int32_t count, const uint8_t *w, int32_t fours, int32_t step, int32_t begin, int32_t *sums)
{
    const int32_t threes = count / 3;
    uint32_t ones[8] = {0}, v;
    int32_t k, j;
    if (threes)
        k_bits_count(column, threes, w, ones, fours);
    for (j = threes * 3; j < count; j++)
        for (k = 0; k < fours; k++) {
            memcpy(&v, w + 32 * j + 4 * k, 4);
            ones[k] += k_ones_of_three(v ^ column[j], 0, 0);
        }
    for (k = 0; k < fours; k++, sums += 4) {
        uint8_t each[4];
        memcpy(each, ones + k, 4);
        for (j = 0; j < 4; j++)
            sums[j] = (begin ? 0 : sums[j]) - each[j] * step;
    }
}

/* A pixel's bytes of bits from byte `from` on, each four times in a word. */
static void k_bits_column(const k_panels *lay, const uint8_t *at, int32_t from, int32_t count, uint32_t *column)
{
    const int32_t bytes = lay->fours, runs_x = lay->runs_x;
    int32_t j = from ? from % bytes : 0, rx = from ? from / bytes % runs_x : 0, ry = from ? from / bytes / runs_x : 0;
    uint32_t *const end = column + count;
    while (column < end) {
        const uint8_t *run = at + ry * lay->run_y + rx * lay->run_x + 2 * j;
        uint32_t *const stop = bytes - j < end - column ? column + (bytes - j) : end;
        for (; column < stop; run += 2)
            *column++ = (run[0] >> 4 | run[1]) * 0x01010101u;
        j = 0;
        if (++rx == runs_x) {
            rx = 0;
            ry++;
        }
    }
}

/* Sums, for bits that are spread. */
static k_once void k_signs_tile_word(const k_signs *l, const uint8_t *w, int32_t far, int32_t blocks, const uint8_t *const at[8], int32_t one,
                                     int32_t *sums)
{
    const int32_t pixels = one ? 1 : 8, outputs = l->lay.o / l->lay.groups, fours = outputs < 32 ? (outputs + 3) / 4 : 8;
    const int32_t all = l->lay.runs_y * l->lay.runs_x * l->lay.fours;
    uint32_t column[3 * k_bits_most];
    int32_t b, i, plane, from, part;
    for (i = 0; i < pixels; i++)
        for (plane = 0; plane < l->planes; plane++)
            for (from = 0; from < all; from += 3 * k_bits_most) {
                const int32_t count = all - from < 3 * k_bits_most ? all - from : 3 * k_bits_most;
                k_bits_column(&l->lay, at[i] + plane * l->whole, from, count, column);
                for (part = 0; part < count; part += k_bits_most) {
                    const int32_t few = count - part < k_bits_most ? count - part : k_bits_most, begin = plane + from + part == 0;
                    const uint8_t *weights = w + (from + part) * 32;
                    for (b = 0; b < blocks; b++)
                        k_bits_differ(column + part, few, weights + b * far, fours, l->step << plane, begin, sums + (b * 8 + i) * 32);
                }
            }
}

/* Bits of codes, eight codes at a time, which are one plane: those that reach `least`, four times in a word. */
#if defined(K_DSP)
static __attribute__((naked, noinline)) void k_bits_of(const int8_t *x __attribute__((unused)), int32_t eights __attribute__((unused)),
                                                       uint32_t least __attribute__((unused)), uint8_t *to __attribute__((unused)))
{
    __asm__ volatile(
        ".syntax unified\n\t"
        "push {r4, r5, r6, lr}\n\t"
        "movw r6, #0x2010\n\t"
        "movt r6, #0x8040\n\t"
        "movs r5, #0\n\t"
        "1:\n\t"
        "ldr r4, [r0], #4\n\t"
        "ldr r12, [r0], #4\n\t"
        "ssub8 r4, r4, r2\n\t"
        "sel r4, r6, r5\n\t"
        "ssub8 r12, r12, r2\n\t"
        "sel r12, r6, r5\n\t"
        "usad8 r4, r4, r5\n\t"
        "usad8 r12, r12, r5\n\t"
        "strb r4, [r3], #1\n\t"
        "strb r12, [r3], #1\n\t"
        "subs r1, r1, #1\n\t"
        "bne 1b\n\t"
        "pop {r4, r5, r6, pc}\n\t");
}
#else
static void k_bits_of(const int8_t *x, int32_t eights, uint32_t least, uint8_t *to)
{
    int32_t j, i;
    for (j = 0; j < 2 * eights; j++, x += 4) {
        uint32_t bits = 0;
        for (i = 0; i < 4; i++)
            bits |= (uint32_t)(x[i] >= (int8_t)(least & 0xffu)) << (4 + i);
        to[j] = (uint8_t)bits;
    }
}
#endif

/* Bits of codes. Of two planes a code's lower two bits tell its number, and a multiplication gathers four of them. */
static k_once void k_pack_word(const k_signs *l, const int8_t *x, int32_t count, int32_t plane, uint8_t *to)
{
    const uint32_t four = 0x01010101u, less = (4u - ((uint32_t)l->low & 3u)) * four;
    int32_t whole = l->planes == 1 && l->low == 127 ? 0 : count / 8, j;
    if (l->planes == 1 && whole)
        k_bits_of(x, whole, four * ((uint32_t)(l->low + 1) & 0xffu), to);
    for (j = 0; j < 2 * whole && l->planes > 1; j++)
        to[j] = (uint8_t)((((k_word(x + 4 * j) & 3 * four) + less) >> plane & four) * 0x10204080u >> 24);
    if (whole * 8 < count)
        k_pack_plain(l, x + whole * 8, count - whole * 8, plane, to + 2 * whole);
}

/* The set. */
static k_signs_set k_signs_word(void)
{
    const k_signs_set set = {k_pack_word, k_signs_tile_word, k_bits_plain};
    return set;
}

/* The same where nothing is counted by it. */
static k_signs_set k_signs_packs(void)
{
    const k_signs_set set = {k_pack_word, NULL, NULL};
    return set;
}

/* A number of 64 bits, shifted, as a code. */
static int8_t k_code_word(int64_t v, int32_t shift, int32_t low, int32_t high)
{
    const int32_t top = (int32_t)(v >> 32);
    int32_t code;
    if (shift >= 32)
        code = top >> (shift - 32);
    else {
        code = (int32_t)((uint32_t)top << (32 - shift) | (uint32_t)v >> shift);
        if (top >> shift != code >> 31) /* it doesn't fit */
            code = top < 0 ? low : high;
    }
    return (int8_t)(code < low ? low : code > high ? high : code);
}

/* Codes. */
static k_once void k_store_word(const int32_t *sums, int32_t count, int32_t panels, const k_panel_weight *w, int32_t panel, const int64_t *bias,
                                int8_t *y, int32_t o, int32_t left)
{
    const int32_t most = left < 16 * panels ? left : 16 * panels, apart = 16 * panels, low = w->low, high = w->high;
    int32_t i, j;
    for (j = 0; j < most; j++) {
        const int32_t place = j / 16 * 16 + j % 2 * 8 + j % 16 / 2, multiplier = w->multiplier[panel * 16 + j];
        const int32_t shift = (int32_t)w->shift[panel * 16 + place];
        const int64_t b = bias[place];
        const int32_t *sum = sums + j;
        int8_t *to = y + j;
        if (shift >= 32)
            for (i = 0; i < count; i++, sum += apart, to += o)
                *to = k_code_word((int64_t)*sum * multiplier + b, shift, low, high);
        else
            for (i = 0; i < count; i++, sum += apart, to += o)
                *to = k_code_word((int64_t)*sum * multiplier + b, shift, low, high);
    }
}
