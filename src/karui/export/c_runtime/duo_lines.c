/* Lines of an image for duo_depth.c: of four channels at a time, as words of two neighbours of a channel. */

#include <stdint.h>

/* A layer. `along` and `across` are its sides, whichever is which: sizes of the image and of the output, borders before them, strides, and
 * bytes from pixel to pixel in the image and in the output. */
typedef struct {
    int32_t image, output, before, stride, step, out;
} k_depth_side;

/* … with its numbers. */
typedef struct {
    k_depth_side along, across;
    const int32_t *table; /* [channels][9]: of three lines of taps the first and the second, the second and the third, as numbers of 16 bits;
                             the sum's start, the multiplier, the high word's addend */
    int32_t channels;     /* a multiple of four */
    int32_t words;        /* of a channel of a kept line */
    int32_t border, low, high;
} k_depth_weight;

/* Two numbers of 16 bits. */
static int32_t k_depth_word(int32_t lower, int32_t upper)
{
    return (int32_t)(((uint32_t)lower & 0xffffu) | (uint32_t)upper << 16);
}

/* Pixels of four channels, two at a time, to the kept line of each. channel: bytes from one to the next. */
#if defined(K_DSP)
static __attribute__((naked, noinline)) void k_depth_pairs(const int8_t *x __attribute__((unused)), int32_t step __attribute__((unused)),
                                                           int32_t *to __attribute__((unused)), int32_t pairs __attribute__((unused)),
                                                           int32_t channel __attribute__((unused)))
{
    __asm__ volatile(
        ".syntax unified\n\t"
        "push {r4-r11, lr}\n\t"
        "ldr r6, [sp, #36]\n\t"
        "add r4, r2, r6\n\t" /* r2, r4, r5, r6: the four channels' */
        "add r5, r4, r6\n\t"
        "add r6, r5, r6\n\t"
        "lsrs r3, r3, #1\n\t"
        "bcc 1f\n\t"
        "ldr r7, [r0]\n\t"
        "ldr r8, [r0, r1]\n\t"
        "add r0, r0, r1, lsl #1\n\t"
        "pkhbt r11, r7, r8, lsl #16\n\t"
        "pkhtb r7, r8, r7, asr #16\n\t"
        "sxtb16 r8, r11\n\t"
        "sxtb16 r9, r11, ror #8\n\t"
        "sxtb16 r10, r7\n\t"
        "sxtb16 r11, r7, ror #8\n\t"
        "str r8, [r2], #4\n\t"
        "str r9, [r4], #4\n\t"
        "str r10, [r5], #4\n\t"
        "str r11, [r6], #4\n\t"
        "1:\n\t"
        "cbz r3, 3f\n\t"
        "2:\n\t"
        "ldr r7, [r0]\n\t"
        "ldr r8, [r0, r1]\n\t"
        "add r0, r0, r1, lsl #1\n\t"
        "ldr r9, [r0]\n\t"
        "ldr r10, [r0, r1]\n\t"
        "add r0, r0, r1, lsl #1\n\t"
        "pkhbt r11, r7, r8, lsl #16\n\t" /* bytes of two channels are the halves of a word, and of each pair of pixels a word */
        "pkhbt r12, r9, r10, lsl #16\n\t"
        "pkhtb r7, r8, r7, asr #16\n\t"
        "pkhtb r8, r10, r9, asr #16\n\t"
        "sxtb16 r9, r11\n\t"
        "sxtb16 r10, r12\n\t"
        "strd r9, r10, [r2], #8\n\t"
        "sxtb16 r9, r11, ror #8\n\t"
        "sxtb16 r10, r12, ror #8\n\t"
        "strd r9, r10, [r4], #8\n\t"
        "sxtb16 r9, r7\n\t"
        "sxtb16 r10, r8\n\t"
        "strd r9, r10, [r5], #8\n\t"
        "sxtb16 r9, r7, ror #8\n\t"
        "sxtb16 r10, r8, ror #8\n\t"
        "strd r9, r10, [r6], #8\n\t"
        "subs r3, r3, #1\n\t"
        "bne 2b\n\t"
        "3:\n\t"
        "pop {r4-r11, pc}\n\t");
}
#else
static void k_depth_pairs(const int8_t *x, int32_t step, int32_t *to, int32_t pairs, int32_t channel)
{
    int32_t i, k;
    for (i = 0; i < pairs; i++, x += 2 * step)
        for (k = 0; k < 4; k++)
            to[k * (channel / 4) + i] = k_depth_word(x[k], x[step + k]);
}
#endif

/* A line of the image, of four channels, between what stays border. */
static k_once void k_depth_line(const int8_t *x, const k_depth_weight *w, int32_t line, int32_t *to)
{
    const int32_t step = w->along.step, words = w->words, before = w->along.before, border = w->border;
    const int32_t room = 2 * words - before, pixels = w->along.image < room ? w->along.image : room;
    const int32_t odd = before & 1, pairs = (pixels - odd) / 2;
    int32_t k;
    if (line < 0 || line >= w->across.image || pixels <= 0) {
        for (k = 0; k < 4 * words; k++)
            to[k] = k_depth_word(border, border);
        return;
    }
    x += line * w->across.step;
    to += before / 2;
    if (odd) {
        for (k = 0; k < 4; k++)
            to[k * words] = k_depth_word(border, x[k]);
        to++;
        x += step;
    }
    k_depth_pairs(x, step, to, pairs, 4 * words);
    if ((pixels - odd) & 1)
        for (k = 0; k < 4; k++)
            to[k * words + pairs] = k_depth_word(x[2 * pairs * step + k], border);
}
