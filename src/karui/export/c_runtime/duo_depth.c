/* Depthwise 3 × 3 layers for Cortex-M with DSP instructions: four pixels of a channel at a time, along the image's longer side.
 *
 * Of every four channels, three lines of the image are kept at a time as words of two neighbours of a channel: 0 and 1, 2 and 3 … With strides
 * of one or two, the three taps of any pixel are one such word and half of the next, so SMLAD and SMLABT do them in two instructions. */

#include <stdint.h>
#include <string.h>

/* A layer. `along` and `across` are its sides, whichever is which: sizes of the image and of the output, borders before them, strides, and
 * bytes from pixel to pixel in the image and in the output. */
typedef struct {
    int32_t image, output, before, stride, step, out;
} k_depth_side;

/* … with its numbers. */
typedef struct {
    k_depth_side along, across;
    const int32_t *weights; /* [channels][3][2]: of a line of taps the first and the second, the second and the third */
    const int32_t *requant; /* [channels][4]: as in k_duo_weight, for a channel a */
    int32_t channels;       /* a multiple of four */
    int32_t words;          /* of two neighbours, in a line */
    int32_t border, low, high;
} k_depth_weight;

/* What a channel's pixels of a line of the output share. */
typedef struct {
    const int32_t *line[3];
    const int32_t *requant;
    int32_t o, fours; /* from pixel to pixel of y; fours of pixels */
} k_depth_job;

/* Two numbers of 16 bits: the lower half of each of two words, or the upper one. */
static int32_t k_lower(int32_t a, int32_t b)
{
    return (int32_t)(((uint32_t)a & 0xffffu) | (uint32_t)b << 16);
}

/* The upper halves. */
static int32_t k_upper(int32_t a, int32_t b)
{
    return (int32_t)((uint32_t)a >> 16 | ((uint32_t)b & 0xffff0000u));
}

/* Two neighbours of four channels as words. */
static void k_depth_words(uint32_t p, uint32_t q, int32_t *to)
{
    const int32_t pe = k_even(p), po = k_odd(p), qe = k_even(q), qo = k_odd(q);
    to[0] = k_lower(pe, qe);
    to[1] = k_lower(po, qo);
    to[2] = k_upper(pe, qe);
    to[3] = k_upper(po, qo);
}

/* A line of the image, of four channels: words [words][4]. */
static k_once void k_depth_line(const int8_t *x, const k_depth_weight *w, int32_t line, int32_t *to)
{
    const int32_t step = w->along.step, image = line >= 0 && line < w->across.image ? w->along.image : 0;
    const int32_t *const end = to + w->words * 4;
    const uint32_t border = 0x01010101u * (uint8_t)w->border;
    const int8_t *from = x + line * w->across.step;
    int32_t at = -w->along.before;
    for (; at + 2 <= 0 && to < end; at += 2, to += 4)
        k_depth_words(border, border, to);
    if (at < 0 && to < end) {
        k_depth_words(border, image > 0 ? k_word(from) : border, to);
        at += 2;
        to += 4;
        from += step;
    }
    for (; at + 2 <= image && to < end; at += 2, to += 4, from += 2 * step)
        k_depth_words(k_word(from), k_word(from + step), to);
    for (; to < end; at += 2, to += 4)
        k_depth_words(at < image ? k_word(from) : border, border, to);
}

/* The text of what begins a line of taps: r6: its pixels; r10, r11: its weights. */
#define k_depth_taps(line)               \
    "ldr r6, [sp, #" line "]\n\t"        \
    "ldrd r10, r11, [r0], #8\n\t"        \
    "add r6, r6, r12\n\t"                \
    "ldr r7, [r6]\n\t"                   \
    "ldr r8, [r6, #16]\n\t"              \
    "ldr r9, [r6, #32]\n\t"

/* The text of the first line of taps with stride one, and of the others. */
#define k_depth_first_1                  \
    "smuad r2, r7, r10\n\t"              \
    "smultb r3, r7, r10\n\t"             \
    "smuad r4, r8, r10\n\t"              \
    "smultb r5, r8, r10\n\t"             \
    "smlabt r2, r8, r11, r2\n\t"         \
    "smlad r3, r8, r11, r3\n\t"          \
    "smlabt r4, r9, r11, r4\n\t"         \
    "smlad r5, r9, r11, r5\n\t"
#define k_depth_next_1                   \
    "smlad r2, r7, r10, r2\n\t"          \
    "smlatb r3, r7, r10, r3\n\t"         \
    "smlad r4, r8, r10, r4\n\t"          \
    "smlatb r5, r8, r10, r5\n\t"         \
    "smlabt r2, r8, r11, r2\n\t"         \
    "smlad r3, r8, r11, r3\n\t"          \
    "smlabt r4, r9, r11, r4\n\t"         \
    "smlad r5, r9, r11, r5\n\t"

/* The same with stride two. */
#define k_depth_first_2                  \
    "smuad r2, r7, r10\n\t"              \
    "smuad r3, r8, r10\n\t"              \
    "smuad r4, r9, r10\n\t"              \
    "smlabt r2, r8, r11, r2\n\t"         \
    "ldr r7, [r6, #48]\n\t"              \
    "ldr r8, [r6, #64]\n\t"              \
    "smlabt r3, r9, r11, r3\n\t"         \
    "smuad r5, r7, r10\n\t"              \
    "smlabt r4, r7, r11, r4\n\t"         \
    "smlabt r5, r8, r11, r5\n\t"
#define k_depth_next_2                   \
    "smlad r2, r7, r10, r2\n\t"          \
    "smlad r3, r8, r10, r3\n\t"          \
    "smlad r4, r9, r10, r4\n\t"          \
    "smlabt r2, r8, r11, r2\n\t"         \
    "ldr r7, [r6, #48]\n\t"              \
    "ldr r8, [r6, #64]\n\t"              \
    "smlabt r3, r9, r11, r3\n\t"         \
    "smlad r5, r7, r10, r5\n\t"          \
    "smlabt r4, r7, r11, r4\n\t"         \
    "smlabt r5, r8, r11, r5\n\t"

/* The text of a channel's fours of pixels. On the stack: three lines, requant, o, fours to come, weights, y; r12: bytes into the lines. */
#define k_depth_text(first, next, bytes)            \
    ".syntax unified\n\t"                           \
    "push {r4-r11, lr}\n\t"                         \
    "sub sp, sp, #36\n\t"                           \
    "ldm r0, {r3, r4, r5, r6, r7, r8}\n\t"          \
    "stm sp, {r3, r4, r5, r6, r7, r8}\n\t"          \
    "strd r1, r2, [sp, #24]\n\t"                    \
    "movs r12, #0\n\t"                              \
    "1:\n\t"                                        \
    "ldr r0, [sp, #24]\n\t"                         \
    "str r12, [sp, #32]\n\t"                        \
    k_depth_taps("0") first                         \
    k_depth_taps("4") next                          \
    k_depth_taps("8") next                          \
    "ldr r0, [sp, #12]\n\t"                         \
    "ldr r10, [sp, #28]\n\t"                        \
    "ldr r11, [sp, #16]\n\t"                        \
    "ldm r0, {r6, r7, r8, r9}\n\t"                  \
    "add r12, r10, r11\n\t"                         \
    k_duo_results                                   \
    "ldr r6, [sp, #20]\n\t"                         \
    "ldr r12, [sp, #32]\n\t"                        \
    "add r10, r10, r11, lsl #2\n\t"                 \
    "str r10, [sp, #28]\n\t"                        \
    "add r12, r12, #" bytes "\n\t"                  \
    "subs r6, r6, #1\n\t"                           \
    "str r6, [sp, #20]\n\t"                         \
    "bne.w 1b\n\t"                                  \
    "add sp, sp, #36\n\t"                           \
    "pop {r4-r11, pc}\n\t"

/* One of a channel's pixels of a line of the output. */
static void k_depth_one(const k_depth_job *job, const int32_t *weights, int32_t stride, int32_t pixel, int8_t *y)
{
    const int32_t odd = pixel * stride % 2, at = pixel * stride / 2 * 4;
    int32_t k, sum = 0;
    for (k = 0; k < 3; k++, weights += 2) {
        const int32_t first = job->line[k][at], second = job->line[k][at + 4];
        if (odd)
            sum = k_both(second, weights[1], sum) + (first >> 16) * (int16_t)weights[0];
        else
            sum = k_both(first, weights[0], sum) + (int16_t)second * (weights[1] >> 16);
    }
    y[pixel * job->o] = k_duo_code(sum, job->requant);
}

/* A channel's fours of pixels of a line of the output, with stride one. */
#if defined(K_DSP)
static __attribute__((naked, noinline)) void k_depth_fours_1(const k_depth_job *job __attribute__((unused)),
                                                             const int32_t *weights __attribute__((unused)),
                                                             int8_t *y __attribute__((unused)))
{
    __asm__ volatile(k_depth_text(k_depth_first_1, k_depth_next_1, "32"));
}
#else
static void k_depth_fours_1(const k_depth_job *job, const int32_t *weights, int8_t *y)
{
    int32_t i;
    for (i = 0; i < 4 * job->fours; i++)
        k_depth_one(job, weights, 1, i, y);
}
#endif

/* The same with stride two. */
#if defined(K_DSP)
static __attribute__((naked, noinline)) void k_depth_fours_2(const k_depth_job *job __attribute__((unused)),
                                                             const int32_t *weights __attribute__((unused)),
                                                             int8_t *y __attribute__((unused)))
{
    __asm__ volatile(k_depth_text(k_depth_first_2, k_depth_next_2, "64"));
}
#else
static void k_depth_fours_2(const k_depth_job *job, const int32_t *weights, int8_t *y)
{
    int32_t i;
    for (i = 0; i < 4 * job->fours; i++)
        k_depth_one(job, weights, 2, i, y);
}
#endif

/* A layer. `lines`: scratch for three lines of words; line n of the image in its border lies in place n mod 3. */
static k_once void k_duo_depth_i8(const int8_t *x, int8_t *y, const k_depth_weight *w, int32_t *lines)
{
    const int32_t size = w->words * 4, all = w->along.output, fours = all / 4, out = w->along.out, stride = w->along.stride;
    int32_t c, line, k, i;
    for (c = 0; c < w->channels; c += 4) {
        int32_t made = 0; /* lines of the image in its border */
        for (line = 0; line < w->across.output; line++) {
            const int32_t first = line * w->across.stride;
            k_depth_job job;
            for (made = made < first ? first : made; made < first + 3; made++)
                k_depth_line(x + c, w, made - w->across.before, lines + made % 3 * size);
            for (i = 0; i < 3; i++)
                job.line[i] = lines + (first + i) % 3 * size;
            job.o = out;
            job.fours = fours;
            for (k = c; k < c + 4; k++) {
                const int32_t *weights = w->weights + k * 6;
                int8_t *to = y + line * w->across.out + k;
                job.requant = w->requant + k * 4;
                if (fours)
                    (stride == 1 ? k_depth_fours_1 : k_depth_fours_2)(&job, weights, to);
                for (i = 4 * fours; i < all; i++)
                    k_depth_one(&job, weights, stride, i, to);
                job.line[0]++;
                job.line[1]++;
                job.line[2]++;
            }
        }
    }
    if (w->low > -128 || w->high < 127)
        k_clamp_i8(y, y, all * w->across.output * w->channels, w->low, w->high);
}
