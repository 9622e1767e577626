/* Layers of signs by tables, continued: what becomes of sums, and the layer. */

#include <stdint.h>
#include <string.h>

/* What codes or bits of some pixels share. */
typedef struct {
    int32_t pixels, fours; /* of each pixel: fours of channels */
    int32_t along;         /* from pixel to pixel of y, less what is written of one */
    int32_t low, high;
} k_tabled_job;

/* The sum of a channel. */
static int32_t k_tabled_sum(const uint32_t *sums, int32_t channel)
{
    return (int16_t)(sums[channel / 2] >> (channel % 2 * 16) & 0xffffu);
}

/* It as a code. */
static int8_t k_tabled_code(int32_t sum, const int32_t *requant, const k_tabled_job *job)
{
    const int32_t v = ((int32_t)((int64_t)sum * requant[0] >> 16) + requant[1]) >> (requant[0] & 0xff);
    const int32_t low = (int8_t)(job->low & 0xff), high = (int8_t)(job->high & 0xff);
    return (int8_t)(v < low ? low : v > high ? high : v);
}

/* Codes of some pixels' sums, for whole fours of channels. */
#if defined(K_DSP)
#define k_made(how, m, b, to) how " " to ", " m ", r8, " b "\n\tasr " to ", " to ", " m "\n\tssat " to ", #8, " to "\n\t"
static __attribute__((naked, noinline)) void k_tabled_codes(const uint32_t *sums __attribute__((unused)),
                                                            const int32_t *requant __attribute__((unused)),
                                                            int8_t *y __attribute__((unused)),
                                                            const k_tabled_job *job __attribute__((unused)))
{
    __asm__ volatile(
        ".syntax unified\n\t"
        "push {r4-r11, lr}\n\t"
        "ldm r3, {r4, r5, r6, r11, r12}\n\t" /* pixels, fours, along, low, high */
        "mov lr, r4\n\t"
        "push {r0, r1, r5, r6}\n\t"
        "1:\n\t"
        "ldr r10, [sp, #8]\n\t"
        "2:\n\t"
        "ldr r8, [r0], #4\n\t"
        "ldm r1!, {r4, r5, r6, r7}\n\t"
        k_made("smlawb", "r4", "r5", "r9")
        k_made("smlawt", "r6", "r7", "r3")
        "ldr r8, [r0], #4\n\t"
        "bfi r9, r3, #8, #8\n\t"
        "ldm r1!, {r4, r5, r6, r7}\n\t"
        k_made("smlawb", "r4", "r5", "r3") "bfi r9, r3, #16, #8\n\t"
        k_made("smlawt", "r6", "r7", "r3") "bfi r9, r3, #24, #8\n\t"
        "ssub8 r3, r9, r11\n\t"
        "sel r9, r9, r11\n\t"
        "ssub8 r3, r9, r12\n\t"
        "sel r9, r12, r9\n\t"
        "str r9, [r2], #4\n\t"
        "subs r10, r10, #1\n\t"
        "bne 2b\n\t"
        "ldrd r0, r1, [sp]\n\t"
        "ldr r3, [sp, #12]\n\t"
        "adds r0, #32\n\t"
        "str r0, [sp]\n\t"
        "add r2, r2, r3\n\t"
        "subs lr, lr, #1\n\t"
        "bne 1b\n\t"
        "add sp, #16\n\t"
        "pop {r4-r11, pc}\n\t");
}
#else
static void k_tabled_codes(const uint32_t *sums, const int32_t *requant, int8_t *y, const k_tabled_job *job)
{
    int32_t i, j;
    for (i = 0; i < job->pixels; i++, sums += 8, y += job->along)
        for (j = 0; j < 4 * job->fours; j++)
            *y++ = k_tabled_code(k_tabled_sum(sums, j), requant + 2 * j, job);
}
#endif

/* Bits of some pixels' sums. */
#if defined(K_DSP)
static __attribute__((naked, noinline)) void k_tabled_bits(const uint32_t *sums __attribute__((unused)),
                                                           const int32_t *most __attribute__((unused)), uint8_t *y __attribute__((unused)),
                                                           const k_tabled_job *job __attribute__((unused)))
{
    __asm__ volatile(
        ".syntax unified\n\t"
        "push {r4-r11, lr}\n\t"
        "ldm r3, {r8, r9, r10}\n\t" /* pixels, fours, along */
        "movw r11, #0x0010\n\t"
        "movt r11, #0x0020\n\t"
        "lsl r12, r11, #2\n\t"
        "movs r3, #0\n\t"
        "1:\n\t"
        "push {r0, r1}\n\t"
        "mov lr, r9\n\t"
        "2:\n\t"
        "ldrd r4, r5, [r1], #8\n\t"
        "ldrd r6, r7, [r0], #8\n\t"
        "ssub16 r4, r4, r6\n\t"
        "sel r4, r11, r3\n\t"
        "ssub16 r5, r5, r7\n\t"
        "sel r5, r12, r3\n\t"
        "adds r4, r4, r5\n\t"
        "add r4, r4, r4, lsr #16\n\t"
        "strb r4, [r2], #1\n\t"
        "subs lr, lr, #1\n\t"
        "bne 2b\n\t"
        "pop {r0, r1}\n\t"
        "adds r0, #32\n\t"
        "add r2, r2, r10\n\t"
        "subs r8, r8, #1\n\t"
        "bne 1b\n\t"
        "pop {r4-r11, pc}\n\t");
}
#else
static void k_tabled_bits(const uint32_t *sums, const int32_t *most, uint8_t *y, const k_tabled_job *job)
{
    int32_t i, j, bit;
    for (i = 0; i < job->pixels; i++, sums += 8, y += job->along)
        for (j = 0; j < job->fours; j++, y++)
            for (*y = 0, bit = 0; bit < 4; bit++)
                if (k_tabled_sum(sums, 4 * j + bit) <= k_tabled_sum((const uint32_t *)most, 4 * j + bit))
                    *y = (uint8_t)(*y | 16 << bit);
}
#endif

/* Sums of pixels from `place` on, times the step of a code, without what their border adds. */
static k_once void k_table_scale(const k_signs *l, int32_t place, int32_t pixels, const int16_t *outside, int32_t upper, uint32_t *sums)
{
    const int32_t outputs = l->lay.o / l->lay.groups, apart = l->lay.groups * ((outputs + 31) / 32) * 32;
    int32_t i, k;
    for (i = 0; i < pixels; i++, sums += 8) {
        int32_t adds[32] = {0};
        if (outside)
            k_add_outside(l, place + i, outside, apart, adds);
        for (k = 0; k < 8; k++) {
            const int32_t *add = adds + upper + 2 * k;
            const int32_t a = k_tabled_sum(sums, 2 * k) * l->step - add[0], b = k_tabled_sum(sums, 2 * k + 1) * l->step - add[1];
            sums[k] = ((uint32_t)a & 0xffffu) | (uint32_t)b << 16;
        }
    }
}

/* What becomes of the sums of some pixels of a line, from `place` on, and sixteen channels. */
static k_once void k_table_store(const k_signs *l, const k_tabled *t, int32_t place, int32_t pixels, int32_t group, int32_t block,
                                 uint32_t *sums, int8_t *y)
{
    const int32_t outputs = l->lay.o / l->lay.groups, blocks = (outputs + 15) / 16, left = outputs - block * 16;
    const int32_t most = left < 16 ? left : 16, which = group * blocks + block, first = group * outputs + block * 16;
    k_tabled_job job = {pixels, most / 4, l->lay.o - most / 4 * 4, t->low, t->high};
    int32_t i, j;
    if (l->planes == 2)
        for (i = 0; i < 8 * pixels; i++)
            sums[i] += 2 * sums[8 * t->kept + i];
    if (t->scaled) {
        const int16_t *outside = l->outside ? l->outside + (group * ((outputs + 31) / 32) + block / 2) * 32 : NULL;
        k_table_scale(l, place, pixels, outside, block % 2 * 16, sums);
    }
    if (!t->requant) {
        job.fours = most > 8 ? 4 : 2;
        job.along = l->pixel - job.fours;
        k_tabled_bits(sums, t->most + which * 8, (uint8_t *)y + place * l->pixel + first / 4, &job);
        return;
    }
    y += place * l->lay.o + first;
    if (job.fours)
        k_tabled_codes(sums, t->requant + which * 32, y, &job);
    for (i = 0; i < pixels && most % 4; i++, sums += 8)
        for (j = most / 4 * 4; j < most; j++)
            y[i * l->lay.o + j] = k_tabled_code(k_tabled_sum(sums, j), t->requant + which * 32 + 2 * j, &job);
}

/* A layer. `copy`: scratch for the planes of bits; `tables`: for those of a part, and behind them for sums. */
static k_once void k_signs_tabled(const int8_t *x, int8_t *y, const k_signs *l, const k_tabled *t, k_signs_set set, uint8_t *copy,
                                  int32_t *tables, int32_t *kept)
{
    const int32_t pixels = l->lay.pixels, ow = l->lay.ow, blocks = (l->lay.o / l->lay.groups + 15) / 16, *weights = t->weights;
    const uint8_t *image = copy;
    int32_t group, block, part, place, plane, many;
    if (l->packed && l->lay.high == l->lay.h && l->lay.wide == l->lay.w)
        image = (const uint8_t *)x;
    else
        k_bordered_signs(x, l, &set, copy);
    for (group = 0; group < l->lay.groups; group++, image += l->part)
        for (block = 0; block < blocks; block++)
            for (part = 0; part < t->count; part++) {
                const int32_t *from = t->parts + 2 * part, fours = from[3] - from[1];
                const k_table_job job = {t->pieces + 2 * from[0], (uint32_t *)tables + 160, t->pieces + 2 * from[2], l->lay.along, part == 0};
                k_table_of(weights, fours, (uint32_t *)tables);
                weights += 2 * fours;
                for (place = 0; place < pixels; place += many) {
                    const int32_t left = ow - place % ow;
                    const uint8_t *at = image + place / ow * l->lay.down + place % ow * l->lay.along;
                    uint32_t *const sums = (uint32_t *)kept + (t->count > 1 ? 8 * place : 0);
                    many = left < 8 ? left : 8;
                    for (plane = 0; plane < l->planes; plane++)
                        k_table_count(&job, at + plane * l->whole, sums + plane * 8 * t->kept, many);
                    if (part == t->count - 1)
                        k_table_store(l, t, place, many, group, block, sums, y);
                }
            }
}
