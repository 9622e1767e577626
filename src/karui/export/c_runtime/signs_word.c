/* Layers of signs on Cortex-M: bits of codes, and codes of the sums of layers whose numbers don't fit in the 16 bits that tables take. */

#include <stdint.h>
#include <string.h>

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
    const k_signs_set set = {k_pack_word, k_signs_tile_plain, k_bits_plain, NULL};
    return set;
}

/* The same where nothing is counted by it. */
static k_signs_set k_signs_packs(void)
{
    const k_signs_set set = {k_pack_word, NULL, NULL, NULL};
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
