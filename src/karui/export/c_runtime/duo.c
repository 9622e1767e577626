/* Integer layers by twos, for Cortex-M with DSP instructions: two output channels in a word, three pixels at a time.
 *
 * SMLAD multiplies two pairs of 16-bit numbers and adds both products. A word of weights holds two inputs of two channels: each half is
 * a + 256 · b. One SXTB16 makes the word of channel a; the word as it is gives Σ a·x + 256 · Σ b·x, and channel b is what stays when the
 * sum of a is taken off: its weights cost no instruction. It is exact where Σ |b·x| is below 2^23, which the exporter knows.
 *
 * What three pixels see (duo_column.c) meets all channels. Without those instructions the same sums are made in plain C. */

#include <stdint.h>

/* What three pixels and all channels of a group share. */
typedef struct {
    const int32_t *column, *end;   /* [fours][2][3]: of four inputs of each pixel first 0 and 2, then 1 and 3 */
    int32_t skip;                  /* bytes of the loop's code that its first turn leaves out: of k_duo_tile, or of k_duo_thin for one pixel */
    const int32_t *requant, *last; /* of the channels to compute */
    int32_t o;                     /* from pixel to pixel of y */
} k_duo_job;

/* For what isn't called where a model's loops are all assembly. */
#if defined(K_DSP)
#define k_plain __attribute__((unused))
#else
#define k_plain
#endif

/* Both products of two words of two numbers, added. */
static k_plain int32_t k_both(int32_t a, int32_t b, int32_t sum)
{
#if defined(K_DSP)
    return __smlad(a, b, sum);
#else
    const int32_t low = (int16_t)a * (int16_t)b, high = (a >> 16) * (b >> 16);
    return (int32_t)((uint32_t)sum + (uint32_t)low + (uint32_t)high);
#endif
}

/* A sum as a code, by the high word of a product: multiplier, bias, shift. */
static k_plain int8_t k_high_code(int32_t sum, const int32_t *requant)
{
    const int32_t high = (int32_t)((uint32_t)(((int64_t)sum * requant[0]) >> 32) + (uint32_t)requant[1]), code = high >> requant[2];
    return (int8_t)(code < -128 ? -128 : code > 127 ? 127 : code);
}

/* The text of it. r10, r11, lr: multiplier, bias, shift. */
#define k_high_result(sum, place)                  \
    "smmla " sum ", " sum ", r10, r11\n\t"         \
    "asr " sum ", " sum ", lr\n\t"                 \
    "ssat " sum ", #8, " sum "\n\t"                \
    "strb " sum ", [" place "\n\t"

/* The text of two inputs of two channels and three pixels. r0: the column; r2 … r4: sums of channel a; r5 … r7: of the words as they are.
 * word: of weights, which is lost; a …, all …: what these sums were before. */
#define k_duo_two(word, a, b, c, all_a, all_b, all_c)  \
    "ldm r0!, {r8, r9, r10}\n\t"                       \
    "smlad r5, " word ", r8, " all_a "\n\t"            \
    "smlad r6, " word ", r9, " all_b "\n\t"            \
    "smlad r7, " word ", r10, " all_c "\n\t"           \
    "sxtb16 " word ", " word "\n\t"                    \
    "smlad r2, " word ", r8, " a "\n\t"                \
    "smlad r3, " word ", r9, " b "\n\t"                \
    "smlad r4, " word ", r10, " c "\n\t"

/* Of four inputs: twenty-four multiplications in seventeen instructions, which are 68 bytes. r1: the weights. */
#define k_duo_four                                           \
    "ldrd r11, r12, [r1], #8\n\t"                            \
    k_duo_two("r11", "r2", "r3", "r4", "r5", "r6", "r7")     \
    k_duo_two("r12", "r2", "r3", "r4", "r5", "r6", "r7")

/* Three pixels and the channels that the job names. The first four inputs go by themselves, as the sums begin there. The loop takes
 * sixty a turn, so that one is enough for 64; its first turn begins further on where they aren't a multiple of that. */
#if defined(K_DSP)
static __attribute__((naked, noinline)) void k_duo_tile(const k_duo_job *job __attribute__((unused)),
                                                        const int32_t *weights __attribute__((unused)),
                                                        int8_t *y __attribute__((unused)))
{
    __asm__ volatile(
        ".syntax unified\n\t"
        "push {r4-r11, lr}\n\t"
        "sub sp, sp, #28\n\t"
        "ldm r0, {r5, r6, r7, r8, r9, r10}\n\t"
        "adr r11, 2f\n\t"
        "add r11, r11, r7\n\t"
        "add r7, r11, #1\n\t"
        "ldrd r4, r3, [r8], #8\n\t"
        "strd r9, r8, [sp]\n\t"      /* last, requant */
        "strd r2, r10, [sp, #8]\n\t" /* y, o */
        "strd r5, r6, [sp, #16]\n\t" /* column, end */
        "str r7, [sp, #24]\n\t"      /* where the loop's first turn begins */
        "mov r7, r3\n\t"
        "1:\n\t"
        "ldrd r0, lr, [sp, #16]\n\t"
        "ldrd r11, r12, [r1], #8\n\t"
        k_duo_two("r11", "r4", "r4", "r4", "r7", "r7", "r7")
        k_duo_two("r12", "r2", "r3", "r4", "r5", "r6", "r7")
        "ldr pc, [sp, #24]\n\t"
        ".balign 4\n\t"
        "2:\n\t"
        ".rept 15\n\t"
        k_duo_four
        ".endr\n\t"
        "cmp r0, lr\n\t"
        "bne.w 2b\n\t"
        "ldm sp, {r0, r8, r9, r12}\n\t"
        "sub r5, r5, r2\n\t"
        "sub r6, r6, r3\n\t"
        "sub r7, r7, r4\n\t"
        "ldm r8!, {r10, r11, lr}\n\t"
        k_high_result("r3", "r9, r12]")
        k_high_result("r4", "r9, r12, lsl #1]")
        k_high_result("r2", "r9], #1")
        "ldm r8!, {r10, r11, lr}\n\t"
        k_high_result("r6", "r9, r12]")
        k_high_result("r7", "r9, r12, lsl #1]")
        k_high_result("r5", "r9], #1")
        "cmp r8, r0\n\t"
        "ldrd r4, r7, [r8], #8\n\t"
        "strd r8, r9, [sp, #4]\n\t"
        "bne.w 1b\n\t"
        "add sp, sp, #28\n\t"
        "pop {r4-r11, pc}\n\t");
}
#else
static k_once void k_duo_tile(const k_duo_job *job, const int32_t *weights, int8_t *y)
{
    const int32_t *requant = job->requant, o = job->o;
    int32_t i;
    for (; requant < job->last; requant += 8, y += 2) {
        int32_t a[3], all[3];
        const int32_t *x = job->column;
        for (i = 0; i < 3; i++) {
            a[i] = requant[0];
            all[i] = requant[1];
        }
        for (; x < job->end; x += 3, weights++)
            for (i = 0; i < 3; i++) {
                all[i] = k_both(*weights, x[i], all[i]);
                a[i] = k_both(k_even((uint32_t)*weights), x[i], a[i]);
            }
        for (i = 0; i < 3; i++) {
            y[i * o] = k_high_code(a[i], requant + 2);
            y[i * o + 1] = k_high_code((int32_t)((uint32_t)all[i] - (uint32_t)a[i]), requant + 5);
        }
    }
}
#endif

/* The text of eight inputs of two channels and one pixel: sixteen multiplications in fourteen instructions, which are 56 bytes. r0: the column;
 * r1: the weights; r4: the sum of channel a; r5: of the words as they are. */
#define k_duo_eight                              \
    "ldm r1!, {r6, r7, r8, r9}\n\t"              \
    "ldm r0!, {r10, r11, r12, lr}\n\t"           \
    "smlad r5, r6, r10, r5\n\t"                  \
    "smlad r5, r7, r11, r5\n\t"                  \
    "smlad r5, r8, r12, r5\n\t"                  \
    "smlad r5, r9, lr, r5\n\t"                   \
    "sxtb16 r6, r6\n\t"                          \
    "sxtb16 r7, r7\n\t"                          \
    "sxtb16 r8, r8\n\t"                          \
    "sxtb16 r9, r9\n\t"                          \
    "smlad r4, r6, r10, r4\n\t"                  \
    "smlad r4, r7, r11, r4\n\t"                  \
    "smlad r4, r8, r12, r4\n\t"                  \
    "smlad r4, r9, lr, r4\n\t"

/* One pixel and these channels. An odd four of inputs goes first. */
#if defined(K_DSP)
static __attribute__((naked, noinline)) void k_duo_thin(const k_duo_job *job __attribute__((unused)),
                                                        const int32_t *weights __attribute__((unused)),
                                                        int8_t *y __attribute__((unused)))
{
    __asm__ volatile(
        ".syntax unified\n\t"
        "push {r4-r11, lr}\n\t"
        "sub sp, sp, #20\n\t"
        "ldm r0, {r4, r5, r6, r7, r8}\n\t"
        "strd r7, r2, [sp]\n\t"      /* requant, y */
        "strd r4, r8, [sp, #8]\n\t"  /* column, last */
        "mov r2, r5\n\t"             /* the column's end */
        "adr r3, 3f\n\t"
        "add r3, r3, r6\n\t"
        "add r3, r3, #1\n\t"         /* where the loop's first turn begins */
        "1:\n\t"
        "ldr r0, [sp, #8]\n\t"
        "ldr r7, [sp]\n\t"
        "sub r6, r2, r0\n\t"
        "ldrd r4, r5, [r7]\n\t"
        "tst r6, #8\n\t"
        "beq 2f\n\t"
        "ldrd r6, r7, [r1], #8\n\t"
        "ldrd r10, r11, [r0], #8\n\t"
        "smlad r5, r6, r10, r5\n\t"
        "smlad r5, r7, r11, r5\n\t"
        "sxtb16 r6, r6\n\t"
        "sxtb16 r7, r7\n\t"
        "smlad r4, r6, r10, r4\n\t"
        "smlad r4, r7, r11, r4\n\t"
        "2:\n\t"
        "bx r3\n\t"
        ".balign 4\n\t"
        "3:\n\t"
        ".rept 4\n\t"
        k_duo_eight
        ".endr\n\t"
        "cmp r0, r2\n\t"
        "bne.w 3b\n\t"
        "ldrd r7, r8, [sp]\n\t"
        "sub r5, r5, r4\n\t"
        "add r7, r7, #8\n\t"
        "ldm r7!, {r10, r11, lr}\n\t"
        k_high_result("r4", "r8], #1")
        "ldm r7!, {r10, r11, lr}\n\t"
        k_high_result("r5", "r8], #1")
        "ldr r0, [sp, #12]\n\t"
        "strd r7, r8, [sp]\n\t"
        "cmp r7, r0\n\t"
        "bne.w 1b\n\t"
        "add sp, sp, #20\n\t"
        "pop {r4-r11, pc}\n\t");
}
#else
static void k_duo_thin(const k_duo_job *job, const int32_t *weights, int8_t *y)
{
    const int32_t *requant = job->requant;
    for (; requant < job->last; requant += 8, y += 2) {
        int32_t a = requant[0], all = requant[1];
        const int32_t *x = job->column;
        for (; x < job->end; x += 2, weights += 2) {
            const int32_t first = weights[0], second = weights[1];
            a = k_both(k_even((uint32_t)first), x[0], a);
            all = k_both(first, x[0], all);
            a = k_both(k_even((uint32_t)second), x[1], a);
            all = k_both(second, x[1], all);
        }
        y[0] = k_high_code(a, requant + 2);
        y[1] = k_high_code((int32_t)((uint32_t)all - (uint32_t)a), requant + 5);
    }
}
#endif

/* Codes between two of them, four at a time. */
static k_once void k_duo_clamp(int8_t *y, int32_t count, int32_t low, int32_t high)
{
    int32_t i = 0;
#if defined(K_DSP)
    const uint32_t lows = (uint32_t)(uint8_t)low * 0x01010101u, highs = (uint32_t)(uint8_t)high * 0x01010101u;
    for (; i + 4 <= count; i += 4) {
        uint32_t v, lost;
        memcpy(&v, y + i, 4);
        __asm__("ssub8 %1, %0, %2\n\t"
                "sel %0, %0, %2\n\t"
                "ssub8 %1, %3, %0\n\t"
                "sel %0, %0, %3"
                : "+r"(v), "=&r"(lost)
                : "r"(lows), "r"(highs)
                : "cc");
        memcpy(y + i, &v, 4);
    }
#endif
    k_clamp_i8(y + i, y + i, count - i, low, high);
}

/* Some duos of a group, from `duo` on, whose weights lie at `weights`, and all pixels. One pixel that is left at the end goes by itself; with
 * two of them one is done again. */
static k_once void k_duos_of(const int8_t *x, int8_t *y, const k_layer *l, const k_duo_weight *w, int32_t group, int32_t duo, int32_t duos,
                             const int32_t *weights, int32_t *column, int8_t *edge)
{
    const int32_t outputs = l->o / l->groups, whole = outputs / 2 - duo, pairs = duos < whole ? duos : whole, pixels = l->oh * l->ow;
    const int32_t words = w->fours * 2, from = pairs ? 2 * duo : outputs - 2, stop = pairs < duos ? outputs : from + 2 * duos;
    const int32_t clamped = w->low > -128 || w->high < 127, o = l->o;
    const int32_t skip = (w->fours == 1 ? 15 : (15 - (w->fours - 1) % 15) % 15) * 68;
    const int32_t skip_thin = (w->fours == 1 ? 4 : (4 - w->fours / 2 % 4) % 4) * 56;
    int32_t p, many;
    k_duo_job job;
    job.column = column;
    job.requant = w->requant + (group * ((outputs + 1) / 2) + duo) * 8;
    job.last = job.requant + pairs * 8;
    job.o = o;
    for (p = 0; p < pixels; p += many) {
        const int32_t left = pixels - p, wide = left >= 3 || (left == 2 && pixels > 2), first = wide && left == 2 ? p - 1 : p;
        int8_t *to = y + first * o + group * outputs;
        int32_t i;
        many = wide ? 3 : 1;
        k_duo_column(x, l, w, group, first, many, column, edge);
        job.end = column + words * many;
        job.skip = wide ? skip : skip_thin;
        if (pairs)
            (wide ? k_duo_tile : k_duo_thin)(&job, weights, to + from);
        if (pairs < duos) {
            k_duo_job odd = job;
            odd.requant = job.last;
            odd.last = job.last + 8;
            (wide ? k_duo_tile : k_duo_thin)(&odd, weights + pairs * words, to + outputs - 2);
        }
        for (i = 0; clamped && i < many; i++)
            k_duo_clamp(to + from + i * o, stop - from, w->low, w->high);
    }
}

/* A layer. `column`: scratch for a column; `edge`: for the runs of three pixels; both for one, where there are fewer than three. */
static k_once void k_duos_i8(const int8_t *x, int8_t *y, const k_layer *l, const k_duo_weight *w, int32_t *column, int8_t *edge)
{
    const int32_t each = (l->o / l->groups + 1) / 2;
    int32_t group;
    for (group = 0; group < l->groups; group++)
        k_duos_of(x, y, l, w, group, 0, each, w->weights + group * each * w->fours * 2, column, edge);
}
