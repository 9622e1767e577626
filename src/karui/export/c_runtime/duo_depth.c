/* Depthwise 3 × 3 layers for Cortex-M with DSP instructions: six pixels of a channel at a time, along the image's longer side.
 *
 * Of every four channels, three lines of the image in its border are kept as words of two neighbours of a channel: 0 and 1, 2 and 3 … With
 * strides of one or two, the three taps of any pixel are one such word and half of the next: SMLAD and SMLABT do them in two instructions.
 * Where a line of taps lies in the border, the other two are summed, from a start that knows what it would add.
 *
 * A sum becomes a code in two more, SMMLA and SSAT: the exporter chooses for each channel what its weights are multiplied by, where its sum
 * starts, the multiplier and what is added to the product's high word, so that the shift is the same for all and every sum gives the code
 * that it should (`c_duo_depth.py`). */

#include <stdint.h>

/* What is known of a line of the output, for four channels. Three lines of the image in its border are kept, in three places by turns. */
typedef struct {
    const int32_t *lines; /* [3][4][words]; here of the channel at hand, the first line whose taps are summed */
    int8_t *y;
    int32_t sixes; /* of pixels */
    int32_t o, o3; /* bytes from pixel to pixel of y, and three times that */
    const int32_t *table;
    int32_t channel;             /* bytes from channel to channel of a line */
    int32_t rest;                /* pixels beside the sixes */
    int32_t step;                /* bytes to the next line, from where six pixels' sums leave the one before */
    int32_t turn;                /* of three lines: 8 × the first one's place, and 8 */
    int32_t kept, left;          /* of two lines: bytes of a table to their taps, and to those that lie in the border */
    int32_t border;              /* two of its codes */
    int32_t rows, words, stride; /* lines of taps; as in k_depth_weight, there `along` */
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
    "ldrd r4, r5, [r7], #16\n\t"            \
    "ldr r6, [r7, #-8]\n\t"                 \
    "smlad r2, r4, r12, r2\n\t"             \
    "smlad r3, r5, r12, r3\n\t"             \
    "smlabt r2, r5, lr, r2\n\t"             \
    "smlabt r3, r6, lr, r3\n\t"

/* The text of a line of taps of one pixel (r2). r0: its pixels. */
#define k_depth_one_1(place)                \
    "ldrd r6, r7, [sp, #" place "]\n\t"     \
    "ldrd r4, r5, [r0]\n\t"                 \
    "smlad r2, r4, r6, r2\n\t"              \
    "smlabt r2, r5, r7, r2\n\t"
#define k_depth_one_2(place)                \
    "ldrd r6, r7, [sp, #" place "]\n\t"     \
    "ldrd r4, r5, [r0], #16\n\t"            \
    "smlad r2, r4, r6, r2\n\t"              \
    "smlabt r2, r5, r7, r2\n\t"

/* The text of a sum that becomes a code. r12, lr: the multiplier, the high word's addend. */
#define k_depth_result(sum)                 \
    "smmla " sum ", " sum ", r12, lr\n\t"   \
    "ssat " sum ", #8, " sum ", asr #6\n\t"

/* The text that puts three lines of taps where their lines lie, twice in a row, so that those in the middle begin with the first place. */
#define k_depth_rows_3                      \
    "ldr r7, [sp, #72]\n\t"                 \
    "ldm r12!, {r2-r6, lr}\n\t"             \
    "stm r7!, {r2-r6, lr}\n\t"              \
    "stm r7, {r2-r6, lr}\n\t"               \
    "ldm r12, {r2, r12, lr}\n\t"

/* The text that takes two of them; what the third makes of the border goes into the sum's start. */
#define k_depth_rows_2                      \
    "ldrd r2, r3, [r7, #40]\n\t"            \
    "ldr r4, [r7, #48]\n\t"                 \
    "add r2, r2, r12\n\t"                   \
    "add r3, r3, r12\n\t"                   \
    "ldm r2, {r5-r7, lr}\n\t"               \
    "add r2, sp, #32\n\t"                   \
    "stm r2, {r5-r7, lr}\n\t"               \
    "ldrd r5, r6, [r3]\n\t"                 \
    "ldr r2, [r12, #24]\n\t"                \
    "ldrd r12, lr, [r12, #28]\n\t"          \
    "smlad r2, r4, r5, r2\n\t"              \
    "smlabt r2, r4, r6, r2\n\t"

/* The text of a line of the output of four channels. On the stack: pixels, y, sixes to come, bytes from pixel to pixel of y and three times
 * that, multiplier, addend, start, from 32 on the taps; from 72 on where those of three lines go, the job, channels to come, the rest. rows:
 * what fetches the taps; sums: of six pixels; double, one: of fewer; six, two: bytes that six pixels and two take of a line. */
#define k_depth_text(rows, sums, double, one, six, two)  \
    ".syntax unified\n\t"                           \
    "push {r4-r11, lr}\n\t"                         \
    "sub sp, sp, #92\n\t"                           \
    "ldrd r1, r2, [r0, #32]\n\t"                    \
    "add r2, r2, sp\n\t"                            \
    "movs r3, #4\n\t"                               \
    "ldr r4, [r0, #28]\n\t"                         \
    "strd r2, r0, [sp, #72]\n\t"                    \
    "strd r3, r4, [sp, #80]\n\t"                    \
    "1:\n\t" /* a channel */                        \
    "ldr r7, [sp, #76]\n\t"                         \
    "ldm r7, {r0, r8-r12}\n\t"                      \
    "ldr r2, [r7, #24]\n\t"                         \
    "add r3, r8, #1\n\t"                            \
    "add r2, r2, r0\n\t"                            \
    "add r4, r12, #36\n\t"                          \
    "strd r2, r3, [r7]\n\t"                         \
    "str r4, [r7, #20]\n\t"                         \
    rows                                            \
    "stm sp, {r0, r8-r12, lr}\n\t"                  \
    "str r2, [sp, #28]\n\t"                         \
    "cmp r9, #0\n\t"                                \
    "beq.w 3f\n\t"                                  \
    "2:\n\t" /* six pixels */                       \
    sums                                            \
    "ldm sp, {r0, r8-r12, lr}\n\t"                  \
    k_depth_result("r2")                            \
    k_depth_result("r3")                            \
    k_depth_result("r4")                            \
    k_depth_result("r5")                            \
    k_depth_result("r6")                            \
    k_depth_result("r7")                            \
    "strb r2, [r8]\n\t"                             \
    "add r2, r8, r10\n\t"                           \
    "strb r3, [r8, r10]\n\t"                        \
    "strb r4, [r8, r10, lsl #1]\n\t"                \
    "strb r5, [r8, r11]\n\t"                        \
    "strb r6, [r8, r10, lsl #2]\n\t"                \
    "strb r7, [r2, r10, lsl #2]\n\t"                \
    "add r8, r8, r11, lsl #1\n\t"                   \
    "adds r0, r0, #" six "\n\t"                     \
    "subs r9, r9, #1\n\t"                           \
    "stm sp, {r0, r8, r9}\n\t"                      \
    "bne.w 2b\n\t"                                  \
    "3:\n\t"                                        \
    "ldr r11, [sp, #84]\n\t"                        \
    "subs r11, r11, #2\n\t"                         \
    "blt 5f\n\t"                                    \
    "4:\n\t" /* two pixels */                       \
    "ldr r2, [sp, #28]\n\t"                         \
    "mov r7, r0\n\t"                                \
    "mov r3, r2\n\t"                                \
    double                                          \
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
    one                                             \
    k_depth_result("r2")                            \
    "strb r2, [r8]\n\t"                             \
    "6:\n\t"                                        \
    "ldr r2, [sp, #80]\n\t"                         \
    "subs r2, r2, #1\n\t"                           \
    "str r2, [sp, #80]\n\t"                         \
    "bne.w 1b\n\t"                                  \
    "add sp, sp, #92\n\t"                           \
    "pop {r4-r11, pc}\n\t"

/* The texts of two and of three lines of taps. */
#define k_depth_of_2(first, next, add)  first add next("40")
#define k_depth_of_3(first, next, add)  first add next("40") add next("48")

/* A line of the output of four channels, with a stride of one or two along it; changes the job. With stride one, a line of taps may lie in
 * the border. */
#if defined(K_DSP)
static __attribute__((naked, noinline)) void k_depth_lines_1(k_depth_job *job __attribute__((unused)))
{
    __asm__ volatile(k_depth_text(k_depth_rows_3, k_depth_of_3(k_depth_first_1, k_depth_next_1, "add r0, r0, r1\n\t"),
                                  k_depth_of_3(k_depth_two_1("32"), k_depth_two_1, "add r7, r7, r1\n\t"),
                                  k_depth_of_3(k_depth_one_1("32"), k_depth_one_1, "add r0, r0, r1\n\t"), "12", "4"));
}
static __attribute__((naked, noinline)) void k_depth_edge_1(k_depth_job *job __attribute__((unused)))
{
    __asm__ volatile(k_depth_text(k_depth_rows_2, k_depth_of_2(k_depth_first_1, k_depth_next_1, "add r0, r0, r1\n\t"),
                                  k_depth_of_2(k_depth_two_1("32"), k_depth_two_1, "add r7, r7, r1\n\t"),
                                  k_depth_of_2(k_depth_one_1("32"), k_depth_one_1, "add r0, r0, r1\n\t"), "12", "4"));
}
static __attribute__((naked, noinline)) void k_depth_lines_2(k_depth_job *job __attribute__((unused)))
{
    __asm__ volatile(k_depth_text(k_depth_rows_3, k_depth_of_3(k_depth_first_2, k_depth_next_2, "add r0, r0, r1\n\t"),
                                  k_depth_of_3(k_depth_two_2("32"), k_depth_two_2, "add r7, r7, r1\n\t"),
                                  k_depth_of_3(k_depth_one_2("32"), k_depth_one_2, "add r0, r0, r1\n\t"), "24", "8"));
}
static void k_depth_four(k_depth_job *job)
{
    if (job->stride == 2)
        k_depth_lines_2(job);
    else if (job->rows == 3)
        k_depth_lines_1(job);
    else
        k_depth_edge_1(job);
}
#else
static int32_t k_depth_sum(const int32_t *at, int32_t odd, const int32_t *taps)
{
    const int32_t first = (int16_t)taps[0], second = (int16_t)taps[1], third = taps[1] >> 16;
    if (odd)
        return (at[0] >> 16) * first + (int16_t)at[1] * second + (at[1] >> 16) * third;
    return (int16_t)at[0] * first + (at[0] >> 16) * second + (int16_t)at[1] * third;
}
static void k_depth_four(k_depth_job *job)
{
    const int32_t all = 6 * job->sixes + job->rest, words = job->words, rows = job->rows, border[2] = {job->border, job->border};
    int32_t c, i, l;
    for (c = 0; c < 4; c++, job->lines += words, job->y++, job->table += 9) {
        const int32_t *const table = job->table, *const taps = rows == 3 ? table : table + job->kept / 4;
        const int32_t start = table[6] + (rows == 3 ? 0 : k_depth_sum(border, 0, table + job->left / 4));
        for (i = 0; i < all; i++) {
            const int32_t at = i * job->stride / 2, odd = i * job->stride % 2;
            int32_t sum = start, code;
            for (l = 0; l < rows; l++) {
                const int32_t place = rows == 3 ? (job->turn / 8 - 1 + l) % 3 * 4 * words : l * (job->step / 4);
                sum += k_depth_sum(job->lines + place + at, odd, taps + 2 * l);
            }
            code = (table[8] + (int32_t)((int64_t)sum * table[7] >> 32)) >> 6;
            job->y[i * job->o] = (int8_t)(code < -128 ? -128 : code > 127 ? 127 : code);
        }
    }
}
#endif

/* A layer. `lines`: scratch for three lines of four channels; the next one takes the oldest one's place. */
static k_once void k_duo_depth_i8(const int8_t *x, int8_t *y, const k_depth_weight *w, int32_t *lines)
{
    const int32_t size = 4 * w->words, image = w->image, bare = w->bare, border = k_depth_word(w->border, w->border);
    k_depth_job job;
    int32_t c, line, i;
    for (i = 0; i < 3 * size; i++)
        lines[i] = border;
    job.sixes = w->sixes;
    job.rest = w->rest;
    job.o = w->o;
    job.o3 = 3 * w->o;
    job.channel = 4 * w->words;
    job.turn = 0;
    job.kept = 0;
    job.left = 0;
    job.border = border;
    job.words = w->words;
    job.stride = w->along;
    for (c = 0; c < w->channels; c += 4) {
        int32_t top = -w->before, made = top, place = 0;
        for (line = 0; line < w->output; line++, top += w->stride) {
            const int32_t end = top + 3;
            for (made = made < top ? top : made; made < end; made++) {
                if (made >= 0 && made < image)
                    k_depth_line(x + made * w->line + c, &w->place, lines + place * size);
                else
                    for (i = place * size; !bare && i < (place + 1) * size; i++)
                        lines[i] = border;
                place = place == 2 ? 0 : place + 1;
            }
            job.y = y + line * w->out + c;
            job.table = w->table + 9 * c;
            if (bare && (top < 0 || end > image)) {
                const int32_t from = top >= 0 ? place : place == 2 ? 0 : place + 1;
                job.lines = lines + from * size;
                job.step = (from == 2 ? -8 : 4) * size;
                job.kept = top < 0 ? 8 : 0;
                job.left = top < 0 ? 0 : 16;
                job.rows = 2;
            } else {
                job.lines = lines;
                job.step = 4 * size - (w->along == 1 ? 0 : 16);
                job.turn = 8 * place + 8;
                job.rows = 3;
            }
            k_depth_four(&job);
        }
    }
    if (w->low > -128 || w->high < 127)
        k_clamp_i8(y, y, (6 * w->sixes + w->rest) * w->output * w->channels, w->low, w->high);
}
