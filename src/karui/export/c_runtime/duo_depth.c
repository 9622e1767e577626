/* Depthwise 3 × 3 layers for Cortex-M with DSP instructions: six pixels of a channel at a time, along the image's longer side.
 *
 * Of every four channels, three lines of the image in its border are kept as words of two neighbours of a channel: 0 and 1, 2 and 3 … With
 * strides of one or two, the three taps of any pixel are one such word and half of the next: SMLAD and SMLABT do them in two instructions.
 *
 * A sum becomes a code in two more, SMMLA and SSAT: the exporter chooses for each channel what its weights are multiplied by, where its sum
 * starts, the multiplier and what is added to the product's high word, so that the shift is the same for all and every sum gives the code
 * that it should (`c_duo_depth.py`). */

#include <stdint.h>

/* What is known of a line of the output, for four channels. A kept line n of the image in its border lies in place n mod 3. */
typedef struct {
    const int32_t *lines; /* [3][4][words]; here of the channel at hand */
    int8_t *y;
    const int32_t *table;
    int32_t sixes, rest;          /* pixels: by six, and what is left */
    int32_t channel, place;       /* bytes from channel to channel of a line, from line to line */
    int32_t o;                    /* from pixel to pixel of y */
    int32_t taps[3];              /* of the first, the second and the third line of taps: 8 × the place of its line */
    int32_t first, words, stride; /* the first line; as above */
} k_depth_job;

/* The text of what begins a line of taps: r12 and lr are its weights, r8 … r11 the first eight numbers of its pixels. */
#define k_depth_taps(place, pixels)       \
    "ldrd r12, lr, [sp, #" place "]\n\t"  \
    "ldm " pixels ", {r8-r11}\n\t"

/* The text of the first line of taps with stride one, and of the others. r2 … r7: sums; r7 comes as the start of all of them. */
#define k_depth_first_1                     \
    k_depth_taps("32", "r0")                \
    "ldr r7, [sp, #28]\n\t"                 \
    "smlad r2, r8, r12, r7\n\t"             \
    "smlatb r3, r8, r12, r7\n\t"            \
    "smlad r4, r9, r12, r7\n\t"             \
    "smlatb r5, r9, r12, r7\n\t"            \
    "smlad r6, r10, r12, r7\n\t"            \
    "smlatb r7, r10, r12, r7\n\t"           \
    k_depth_last_1
#define k_depth_next_1(place)               \
    "add r0, r0, r1\n\t"                    \
    k_depth_taps(place, "r0")               \
    "smlad r2, r8, r12, r2\n\t"             \
    "smlatb r3, r8, r12, r3\n\t"            \
    "smlad r4, r9, r12, r4\n\t"             \
    "smlatb r5, r9, r12, r5\n\t"            \
    "smlad r6, r10, r12, r6\n\t"            \
    "smlatb r7, r10, r12, r7\n\t"           \
    k_depth_last_1
#define k_depth_last_1                      \
    "smlabt r2, r9, lr, r2\n\t"             \
    "smlad r3, r9, lr, r3\n\t"              \
    "smlabt r4, r10, lr, r4\n\t"            \
    "smlad r5, r10, lr, r5\n\t"             \
    "smlabt r6, r11, lr, r6\n\t"            \
    "smlad r7, r11, lr, r7\n\t"

/* The same with stride two; r0 moves on by 16 bytes. */
#define k_depth_first_2                     \
    k_depth_taps("32", "r0!")               \
    "ldr r7, [sp, #28]\n\t"                 \
    "smlad r2, r8, r12, r7\n\t"             \
    "smlad r3, r9, r12, r7\n\t"             \
    "smlad r4, r10, r12, r7\n\t"            \
    "smlad r5, r11, r12, r7\n\t"            \
    "smlabt r2, r9, lr, r2\n\t"             \
    "smlabt r3, r10, lr, r3\n\t"            \
    "smlabt r4, r11, lr, r4\n\t"            \
    "ldm r0, {r8-r10}\n\t"                  \
    "smlad r6, r8, r12, r7\n\t"             \
    "smlad r7, r9, r12, r7\n\t"             \
    k_depth_last_2
#define k_depth_next_2(place)               \
    "add r0, r0, r1\n\t"                    \
    k_depth_taps(place, "r0!")              \
    "smlad r2, r8, r12, r2\n\t"             \
    "smlad r3, r9, r12, r3\n\t"             \
    "smlad r4, r10, r12, r4\n\t"            \
    "smlad r5, r11, r12, r5\n\t"            \
    "smlabt r2, r9, lr, r2\n\t"             \
    "smlabt r3, r10, lr, r3\n\t"            \
    "smlabt r4, r11, lr, r4\n\t"            \
    "ldm r0, {r8-r10}\n\t"                  \
    "smlad r6, r8, r12, r6\n\t"             \
    "smlad r7, r9, r12, r7\n\t"             \
    k_depth_last_2
#define k_depth_last_2                      \
    "smlabt r5, r8, lr, r5\n\t"             \
    "smlabt r6, r9, lr, r6\n\t"             \
    "smlabt r7, r10, lr, r7\n\t"

/* The text of a line of taps of a pixel (r2) and the next one (r3), with either stride. r7: its pixels. */
#define k_depth_two_1(place)                \
    "ldrd r12, lr, [sp, #" place "]\n\t"    \
    "ldrd r4, r5, [r7]\n\t"                 \
    "smlad r2, r4, r12, r2\n\t"             \
    "smlatb r3, r4, r12, r3\n\t"            \
    "smlabt r2, r5, lr, r2\n\t"             \
    "smlad r3, r5, lr, r3\n\t"
#define k_depth_two_2(place)                \
    "ldrd r12, lr, [sp, #" place "]\n\t"    \
    "ldm r7, {r4-r6}\n\t"                   \
    "smlad r2, r4, r12, r2\n\t"             \
    "smlad r3, r5, r12, r3\n\t"             \
    "smlabt r2, r5, lr, r2\n\t"             \
    "smlabt r3, r6, lr, r3\n\t"

/* The text of a line of taps of one pixel (r2); r0: its pixels. */
#define k_depth_one(place)                  \
    "ldrd r12, lr, [sp, #" place "]\n\t"    \
    "ldrd r4, r5, [r0]\n\t"                 \
    "smlad r2, r4, r12, r2\n\t"             \
    "smlabt r2, r5, lr, r2\n\t"

/* The text of sums that become codes: r12 and lr: the multiplier, the high word's addend. */
#define k_depth_result(sum)                 \
    "smmla " sum ", " sum ", r12, lr\n\t"   \
    "ssat " sum ", #8, " sum ", asr #6\n\t"

/* The text of a line of the output of four channels. On the stack: pixels, y, sixes to come, bytes from pixel to pixel of y and three times
 * that, multiplier, addend, start, the taps by the place of their lines, the job, channels to come. back: what r0 has moved on by in a line
 * of taps; six, two: what six pixels and two pixels take of a line. */
#define k_depth_text(first, next, double, back, six, two)  \
    ".syntax unified\n\t"                           \
    "push {r4-r11, lr}\n\t"                         \
    "sub sp, sp, #68\n\t"                           \
    "str r0, [sp, #56]\n\t"                         \
    "movs r1, #4\n\t"                               \
    "str r1, [sp, #60]\n\t"                         \
    "ldr r2, [r0, #28]\n\t"                         \
    "add r3, r2, r2, lsl #1\n\t"                    \
    "strd r2, r3, [sp, #12]\n\t"                    \
    "1:\n\t" /* a channel */                        \
    "ldm r0, {r1, r2, r3, r4}\n\t"                  \
    "ldm r3!, {r5-r12, lr}\n\t"                     \
    "str r3, [r0, #8]\n\t"                          \
    "stm sp, {r1, r2, r4}\n\t"                      \
    "str r11, [sp, #28]\n\t"                        \
    "strd r12, lr, [sp, #20]\n\t"                   \
    "ldrd r3, r11, [r0, #32]\n\t"                   \
    "ldr r12, [r0, #40]\n\t"                        \
    "add r3, r3, sp\n\t"                            \
    "add r11, r11, sp\n\t"                          \
    "add r12, r12, sp\n\t"                          \
    "strd r5, r6, [r3, #32]\n\t"                    \
    "strd r7, r8, [r11, #32]\n\t"                   \
    "strd r9, r10, [r12, #32]\n\t"                  \
    "ldrd r5, r6, [r0, #20]\n\t"                    \
    "add r5, r5, r1\n\t"                            \
    "add r7, r2, #1\n\t"                            \
    "strd r5, r7, [r0]\n\t"                         \
    "mov r0, r1\n\t"                                \
    "sub r1, r6, #" back "\n\t"                     \
    "mov r8, r2\n\t"                                \
    "cmp r4, #0\n\t"                                \
    "beq.w 3f\n\t"                                  \
    "2:\n\t" /* six pixels */                       \
    first next("40") next("48")                     \
    "ldm sp, {r0, r8, r9, r10, r11, r12, lr}\n\t"   \
    k_depth_result("r2")                            \
    k_depth_result("r3")                            \
    k_depth_result("r4")                            \
    k_depth_result("r5")                            \
    k_depth_result("r6")                            \
    k_depth_result("r7")                            \
    "strb r2, [r8]\n\t"                             \
    "strb r3, [r8, r10]\n\t"                        \
    "strb r4, [r8, r10, lsl #1]\n\t"                \
    "strb r5, [r8, r11]\n\t"                        \
    "add r12, r8, r10\n\t"                          \
    "strb r6, [r8, r10, lsl #2]\n\t"                \
    "strb r7, [r12, r10, lsl #2]\n\t"               \
    "add r8, r8, r11, lsl #1\n\t"                   \
    "adds r0, r0, #" six "\n\t"                     \
    "subs r9, r9, #1\n\t"                           \
    "stm sp, {r0, r8, r9}\n\t"                      \
    "bne 2b\n\t"                                    \
    "3:\n\t"                                        \
    "ldr r11, [sp, #56]\n\t"                        \
    "ldr r10, [sp, #12]\n\t"                        \
    "ldr r11, [r11, #16]\n\t"                       \
    "add r1, r1, #" back "\n\t"                     \
    "subs r11, r11, #2\n\t"                         \
    "blt 5f\n\t"                                    \
    "4:\n\t" /* two pixels */                       \
    "ldr r2, [sp, #28]\n\t"                         \
    "mov r7, r0\n\t"                                \
    "mov r3, r2\n\t"                                \
    double("32")                                    \
    "add r7, r7, r1\n\t"                            \
    double("40")                                    \
    "add r7, r7, r1\n\t"                            \
    double("48")                                    \
    "ldrd r12, lr, [sp, #20]\n\t"                   \
    k_depth_result("r2")                            \
    k_depth_result("r3")                            \
    "strb r2, [r8]\n\t"                             \
    "strb r3, [r8, r10]\n\t"                        \
    "add r8, r8, r10, lsl #1\n\t"                   \
    "adds r0, r0, #" two "\n\t"                     \
    "subs r11, r11, #2\n\t"                         \
    "bge 4b\n\t"                                    \
    "5:\n\t"                                        \
    "adds r11, r11, #1\n\t"                         \
    "bne 6f\n\t"                                    \
    "ldr r2, [sp, #28]\n\t" /* the last one */      \
    k_depth_one("32")                               \
    "add r0, r0, r1\n\t"                            \
    k_depth_one("40")                               \
    "add r0, r0, r1\n\t"                            \
    k_depth_one("48")                               \
    "ldrd r12, lr, [sp, #20]\n\t"                   \
    k_depth_result("r2")                            \
    "strb r2, [r8]\n\t"                             \
    "6:\n\t"                                        \
    "ldrd r0, r1, [sp, #56]\n\t"                    \
    "subs r1, r1, #1\n\t"                           \
    "str r1, [sp, #60]\n\t"                         \
    "bne 1b\n\t"                                    \
    "add sp, sp, #68\n\t"                           \
    "pop {r4-r11, pc}\n\t"

/* A line of the output of four channels, with a stride of one or two along it; changes the job. */
#if defined(K_DSP)
static __attribute__((naked, noinline)) void k_depth_four_1(k_depth_job *job __attribute__((unused)))
{
    __asm__ volatile(k_depth_text(k_depth_first_1, k_depth_next_1, k_depth_two_1, "0", "12", "4"));
}
static __attribute__((naked, noinline)) void k_depth_four_2(k_depth_job *job __attribute__((unused)))
{
    __asm__ volatile(k_depth_text(k_depth_first_2, k_depth_next_2, k_depth_two_2, "16", "24", "8"));
}
static void k_depth_four(k_depth_job *job)
{
    (job->stride == 1 ? k_depth_four_1 : k_depth_four_2)(job);
}
#else
static void k_depth_four(k_depth_job *job)
{
    const int32_t all = 6 * job->sixes + job->rest, words = job->words;
    int32_t c, i, l;
    for (c = 0; c < 4; c++) {
        const int32_t *table = job->table + 9 * c;
        for (i = 0; i < all; i++) {
            const int32_t odd = i * job->stride % 2;
            int32_t sum = table[6], code;
            for (l = 0; l < 3; l++) {
                const int32_t *at = job->lines + ((job->first + l) % 3 * 4 + c) * words + i * job->stride / 2;
                const int32_t w0 = (int16_t)table[2 * l], w1 = (int16_t)table[2 * l + 1], w2 = table[2 * l + 1] >> 16;
                if (odd)
                    sum += (at[0] >> 16) * w0 + (int16_t)at[1] * w1 + (at[1] >> 16) * w2;
                else
                    sum += (int16_t)at[0] * w0 + (at[0] >> 16) * w1 + (int16_t)at[1] * w2;
            }
            code = (table[8] + (int32_t)((int64_t)sum * table[7] >> 32)) >> 6;
            job->y[c + i * job->o] = (int8_t)(code < -128 ? -128 : code > 127 ? 127 : code);
        }
    }
}
#endif

/* A layer. `lines`: scratch for three lines of four channels. */
static k_once void k_duo_depth_i8(const int8_t *x, int8_t *y, const k_depth_weight *w, int32_t *lines)
{
    const int32_t size = 4 * w->words;
    int32_t c, line, i;
    k_depth_job job;
    for (i = 0; i < 3 * size; i++)
        lines[i] = k_depth_word(w->border, w->border);
    job.sixes = w->along.output / 6;
    job.rest = w->along.output % 6;
    job.channel = 4 * w->words;
    job.place = 4 * size;
    job.o = w->along.out;
    job.words = w->words;
    job.stride = w->along.stride;
    for (c = 0; c < w->channels; c += 4) {
        int32_t made = 0; /* lines of the image in its border */
        for (line = 0; line < w->across.output; line++) {
            const int32_t first = line * w->across.stride, place = first % 3 * 8;
            for (made = made < first ? first : made; made < first + 3; made++)
                k_depth_line(x + c, w, made - w->across.before, lines + made % 3 * size);
            job.lines = lines;
            job.y = y + line * w->across.out + c;
            job.table = w->table + 9 * c;
            job.taps[0] = place;
            job.taps[1] = place == 16 ? 0 : place + 8;
            job.taps[2] = place == 0 ? 16 : place - 8;
            job.first = first;
            k_depth_four(&job);
        }
    }
    if (w->low > -128 || w->high < 127)
        k_clamp_i8(y, y, w->along.output * w->across.output * w->channels, w->low, w->high);
}
