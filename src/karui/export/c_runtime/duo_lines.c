/* Lines of an image for duo_depth.c: of four channels at a time, as words of two neighbours of a channel. */

#include <stdint.h>

/* How a line of the image lies in a channel's words: behind those that are all border. */
typedef struct {
    int32_t words;   /* that hold a pixel first or both */
    int32_t first;   /* bytes before them */
    int32_t channel; /* bytes from channel to channel */
    int32_t odd;     /* the first of them begins with border, which is a pixel less to read */
    uint32_t border; /* four of its codes */
    int32_t step;    /* bytes from pixel to pixel of the image */
    int32_t last;    /* one more word is a pixel and border */
} k_depth_place;

/* A layer. Its lines are along the image's longer side. */
typedef struct {
    int32_t image, output, before, stride; /* lines of the image and of the output, of border before them, from one to the next */
    int32_t line, out;                     /* bytes from line to line in the image and in the output */
    int32_t o, along;                      /* … from pixel to pixel in the output; the stride along a line */
    int32_t sixes, rest;                   /* pixels of a line of the output: by six, and what is left */
    int32_t words;                         /* of a channel of a kept line */
    int32_t bare;                          /* whether lines of border aren't made, as never more than one of three is one */
    k_depth_place place;
    const int32_t *table; /* [channels][9]: of three lines of taps the first and the second, the second and the third, as numbers of 16 bits;
                             the sum's start, the multiplier, the high word's addend */
    int32_t channels;     /* a multiple of four */
    int32_t border, low, high;
} k_depth_weight;

/* Two numbers of 16 bits. */
static int32_t k_depth_word(int32_t lower, int32_t upper)
{
    return (int32_t)(((uint32_t)lower & 0xffffu) | (uint32_t)upper << 16);
}

/* A line of the image, of four channels, to the kept line of each: two pixels a word. */
#if defined(K_DSP)
static __attribute__((naked, noinline)) void k_depth_line(const int8_t *x __attribute__((unused)),
                                                          const k_depth_place *place __attribute__((unused)),
                                                          int32_t *to __attribute__((unused)))
{
    __asm__ volatile(
        ".syntax unified\n\t"
        "push {r1, r4-r11, lr}\n\t"
        "ldm r1, {r3, r4, r6-r9}\n\t"
        "mov r1, r9\n\t"
        "add r2, r2, r4\n\t" /* r2, r4, r5, r6: the four channels' */
        "add r4, r2, r6\n\t"
        "add r5, r4, r6\n\t"
        "add r6, r5, r6\n\t"
        "add lr, r1, r1, lsl #1\n\t"
        "cbz r7, 1f\n\t"
        "mov r7, r8\n\t"
        "sub r0, r0, r1\n\t"
        "lsrs r3, r3, #1\n\t"
        "bcc 6f\n\t"
        "b 2f\n\t"
        "1:\n\t"
        "lsrs r3, r3, #1\n\t"
        "bcc 4f\n\t"
        "ldr r7, [r0]\n\t"
        "2:\n\t" /* a word of each, behind r7 */
        "ldr r8, [r0, r1]\n\t"
        "add r0, r0, r1, lsl #1\n\t"
        "3:\n\t"
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
        "4:\n\t" /* two words of each */
        "cbz r3, 7f\n\t"
        "5:\n\t"
        "ldr r7, [r0]\n\t"
        "6:\n\t" /* behind r7 */
        "ldr r8, [r0, r1]\n\t"
        "ldr r9, [r0, r1, lsl #1]\n\t"
        "ldr r10, [r0, lr]\n\t"
        "add r0, r0, r1, lsl #2\n\t"
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
        "bne 5b\n\t"
        "7:\n\t"
        "ldr r7, [sp]\n\t"
        "cbz r7, 8f\n\t"
        "ldr r8, [r7, #16]\n\t"
        "ldr r7, [r7, #24]\n\t"
        "cbz r7, 8f\n\t"
        "str r3, [sp]\n\t" /* a pixel and border are the last word: come here once more, with nothing to do */
        "ldr r7, [r0]\n\t"
        "b 3b\n\t"
        "8:\n\t"
        "pop {r1, r4-r11, pc}\n\t");
}
#else
static void k_depth_line(const int8_t *x, const k_depth_place *place, int32_t *to)
{
    const int32_t step = place->step, odd = place->odd, border = (int8_t)(place->border & 0xffu), channel = place->channel / 4;
    int32_t i, k;
    to += place->first / 4;
    for (i = 0; i < place->words + place->last; i++)
        for (k = 0; k < 4; k++) {
            const int32_t at = (2 * i - odd) * step + k;
            to[k * channel + i] = k_depth_word(at < 0 ? border : x[at], i == place->words ? border : x[at + step]);
        }
}
#endif
