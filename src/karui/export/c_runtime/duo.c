/* Integer layers by twos, for Cortex-M with DSP instructions: two output channels in a word, three pixels at a time.
 *
 * SMLAD multiplies two pairs of 16-bit numbers and adds both products. A word of weights holds two inputs of two channels: each half is
 * a + 256 · b. One SXTB16 makes the word of channel a; the word as it is gives Σ a·x + 256 · Σ b·x, and channel b is what stays when the
 * sum of a is taken off: its weights cost no instruction. It is exact where Σ |b·x| is below 2^23, which the exporter knows.
 *
 * What three pixels see is written out once as 16-bit numbers (a column), and then meets all channels. A column is all the scratch that a
 * layer needs. Without those instructions the same sums are made in plain C. */

#include <stdint.h>
#include <string.h>

/* A layer's weights. They lie [groups][duos][fours][2]: of four inputs 0 … 3, first 0 and 2, then 1 and 3; the last duo of an odd number of
 * channels holds the last two again. */
typedef struct {
    const int32_t *weights;
    const int32_t *requant; /* [groups][duos][8]: what sums of channel a and of the words as they are start with; then of a and of b:
                             * multiplier, high word of the bias, shift − 32. Sums of b are 256 times what they should be. Two words more */
    int32_t runs_x;         /* runs of neighbouring bytes that a pixel sees in a line, … */
    int32_t length;         /* … and the bytes of each */
    int32_t fours;          /* of all runs */
    int32_t border;         /* the code that stands for nothing */
    int32_t low, high;      /* codes */
} k_duo_weight;

/* What three pixels and all channels of a group share. */
typedef struct {
    const int32_t *column, *end;   /* [fours][2][3]: of four inputs of each pixel first 0 and 2, then 1 and 3 */
    int32_t skip;                  /* bytes of the loop's code that its first turn leaves out */
    const int32_t *requant, *last; /* of the channels to compute */
    int32_t o;                     /* from pixel to pixel of y */
} k_duo_job;

/* Bytes 0 and 2 of a word as numbers of 16 bits. */
static int32_t k_even(uint32_t v)
{
#if defined(K_DSP)
    return __sxtb16((int32_t)v);
#else
    return (int32_t)((uint32_t)(int8_t)v % 65536u | (uint32_t)(int8_t)(v >> 16) << 16);
#endif
}

/* Bytes 1 and 3. */
static int32_t k_odd(uint32_t v)
{
    return k_even(v >> 8 | v << 24);
}

/* Both products of two words of two numbers, added. */
static int32_t k_both(int32_t a, int32_t b, int32_t sum)
{
#if defined(K_DSP)
    return __smlad(a, b, sum);
#else
    const int32_t low = (int16_t)a * (int16_t)b, high = (a >> 16) * (b >> 16);
    return (int32_t)((uint32_t)sum + (uint32_t)low + (uint32_t)high);
#endif
}

/* Four bytes as a word. */
static uint32_t k_word(const int8_t *p)
{
    return (uint8_t)p[0] | (uint32_t)(uint8_t)p[1] << 8 | (uint32_t)(uint8_t)p[2] << 16 | (uint32_t)(uint8_t)p[3] << 24;
}

/* The last `rest` bytes, one to three, of a run of `length`: nothing beyond it is read. */
static uint32_t k_tail(const int8_t *run, int32_t length, int32_t rest)
{
    uint32_t v = 0;
    int32_t i;
    if (length >= 4)
        return k_word(run + length - 4) >> (32 - 8 * rest);
    for (i = 0; i < rest; i++)
        v |= (uint32_t)(uint8_t)run[i] << (8 * i);
    return v;
}

/* Whole fours of a run of each of three pixels, into a column; returns where it ends. */
#if defined(K_DSP)
static __attribute__((naked, noinline)) int32_t *k_spread(const int8_t *const at[3] __attribute__((unused)),
                                                          int32_t fours __attribute__((unused)), int32_t *to __attribute__((unused)))
{
    __asm__ volatile(
        ".syntax unified\n\t"
        "push {r4-r9, lr}\n\t"
        "mov r3, r2\n\t"
        "movs r12, r1\n\t"
        "beq 2f\n\t"
        "ldm r0, {r0, r1, r2}\n\t"
        "1:\n\t"
        "ldr r7, [r0], #4\n\t"
        "ldr r8, [r1], #4\n\t"
        "ldr r9, [r2], #4\n\t"
        "sxtb16 r4, r7\n\t"
        "sxtb16 r5, r8\n\t"
        "sxtb16 r6, r9\n\t"
        "sxtb16 r7, r7, ror #8\n\t"
        "sxtb16 r8, r8, ror #8\n\t"
        "sxtb16 r9, r9, ror #8\n\t"
        "stm r3!, {r4, r5, r6, r7, r8, r9}\n\t"
        "subs r12, r12, #1\n\t"
        "bne 1b\n\t"
        "2:\n\t"
        "mov r0, r3\n\t"
        "pop {r4-r9, pc}\n\t");
}
#else
static int32_t *k_spread(const int8_t *const at[3], int32_t fours, int32_t *to)
{
    int32_t i, j;
    for (j = 0; j < fours; j++, to += 6)
        for (i = 0; i < 3; i++) {
            const uint32_t v = k_word(at[i] + 4 * j);
            to[i] = k_even(v);
            to[i + 3] = k_odd(v);
        }
    return to;
}
#endif

/* The rest of these runs. */
static int32_t *k_spread_rest(const int8_t *const at[3], int32_t length, int32_t rest, int32_t *to)
{
    int32_t i;
    for (i = 0; i < 3; i++) {
        const uint32_t v = k_tail(at[i], length, rest);
        to[i] = k_even(v);
        to[i + 3] = k_odd(v);
    }
    return to + 6;
}

/* A run of one pixel. */
static int32_t *k_spread_one(const int8_t *at, int32_t length, int32_t *to)
{
    int32_t i;
    for (i = 0; i < length; i += 4) {
        const uint32_t v = length - i < 4 ? k_tail(at, length, length - i) : k_word(at + i);
        *to++ = k_even(v);
        *to++ = k_odd(v);
    }
    return to;
}

/* A run that the border takes part in, made in `edge`. */
static k_once void k_edge(const int8_t *x, const k_layer *l, int32_t iy, int32_t ix, int32_t taps, int32_t offset, int32_t length,
                          int32_t border, int8_t *edge)
{
    const int32_t width = length / taps, in = iy >= 0 && iy < l->h, after = in ? (l->w - ix) * width : 0;
    const int32_t left = in && ix < 0 ? -ix * width : 0, right = after < length ? after : length;
    const int8_t *from = x + (iy * l->w + ix) * l->c + offset; /* several taps of a run are neighbours */
    int32_t i;
    if (length >= 16) {
        memset(edge, border, (size_t)length);
        if (left < right)
            memcpy(edge + left, from + left, (size_t)(right - left));
        return;
    }
    for (i = 0; i < length; i++)
        edge[i] = (int8_t)(i < left || i >= right ? border : from[i]);
}

/* The column of the three pixels from `first` on, or of that one. `edge`: scratch for a run of each. */
static k_once void k_duo_column(const int8_t *x, const k_layer *l, const k_duo_weight *w, int32_t group, int32_t first, int32_t many,
                                int32_t *to, int8_t *edge)
{
    const int32_t length = w->length, fours = length / 4, rest = length % 4, high = l->h, wide = l->w, c = l->c, dy = l->dy, dx = l->dx;
    const int32_t taps = l->kw / w->runs_x, offset = group * (c / l->groups), last = wide - taps, kh = l->kh, runs = w->runs_x;
    int32_t i, ky, rx, iy[3], ix[3], oy = first / l->ow, ox = first % l->ow;
    for (i = 0; i < many; i++) {
        iy[i] = oy * l->sy - l->top;
        ix[i] = ox * l->sx - l->left;
        if (++ox == l->ow) {
            ox = 0;
            oy++;
        }
    }
    for (ky = 0; ky < kh; ky++)
        for (rx = 0; rx < runs; rx++) {
            const int8_t *at[3];
            for (i = 0; i < many; i++) {
                const int32_t y = iy[i] + ky * dy, xx = ix[i] + rx * dx;
                if (y >= 0 && y < high && xx >= 0 && xx <= last)
                    at[i] = x + ((y * wide + xx) * c + offset);
                else {
                    k_edge(x, l, y, xx, taps, offset, length, w->border, edge + i * length);
                    at[i] = edge + i * length;
                }
            }
            if (many == 3) {
                to = k_spread(at, fours, to);
                if (rest)
                    to = k_spread_rest(at, length, rest, to);
            } else
                to = k_spread_one(at[0], length, to);
        }
}

/* A sum as a code, by the high word of a product: multiplier, bias, shift. */
static int8_t k_high_code(int32_t sum, const int32_t *requant)
{
    const int32_t high = (int32_t)((uint32_t)(((int64_t)sum * requant[0]) >> 32) + (uint32_t)requant[1]), code = high >> requant[2];
    return (int8_t)(code < -128 ? -128 : code > 127 ? 127 : code);
}

/* The text of it. r10, r11, lr: multiplier, bias, shift; r0 is lost. */
#define k_high_result(sum, place)            \
    "smmla r0, " sum ", r10, r11\n\t"        \
    "asr r0, r0, lr\n\t"                    \
    "ssat r0, #8, r0\n\t"                   \
    "strb r0, [" place "\n\t"

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
 * thirty-two a turn; its first turn begins further on where they aren't a multiple of that. */
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
        "mov r12, r2\n\t"
        "adr r11, 2f\n\t"
        "add r11, r11, r7\n\t"
        "add r7, r11, #1\n\t"         /* where the loop's first turn begins */
        "ldrd r4, r3, [r8], #8\n\t"
        "strd r5, r6, [sp]\n\t"      /* column, end */
        "strd r7, r9, [sp, #8]\n\t"  /* that, last */
        "strd r8, r12, [sp, #16]\n\t" /* requant, y */
        "str r10, [sp, #24]\n\t"     /* o */
        "mov r7, r3\n\t"
        "1:\n\t"
        "ldrd r0, lr, [sp]\n\t"
        "ldrd r11, r12, [r1], #8\n\t"
        k_duo_two("r11", "r4", "r4", "r4", "r7", "r7", "r7")
        k_duo_two("r12", "r2", "r3", "r4", "r5", "r6", "r7")
        "ldr pc, [sp, #8]\n\t"
        ".balign 4\n\t"
        "2:\n\t"
        ".rept 8\n\t"
        k_duo_four
        ".endr\n\t"
        "cmp r0, lr\n\t"
        "bne.w 2b\n\t"
        "ldrd r8, r9, [sp, #16]\n\t"
        "sub r5, r5, r2\n\t"
        "sub r6, r6, r3\n\t"
        "sub r7, r7, r4\n\t"
        "ldr r12, [sp, #24]\n\t"
        "ldm r8!, {r10, r11, lr}\n\t"
        k_high_result("r3", "r9, r12]")
        k_high_result("r4", "r9, r12, lsl #1]")
        k_high_result("r2", "r9], #1")
        "ldm r8!, {r10, r11, lr}\n\t"
        k_high_result("r6", "r9, r12]")
        k_high_result("r7", "r9, r12, lsl #1]")
        k_high_result("r5", "r9], #1")
        "ldr r0, [sp, #12]\n\t"
        "cmp r8, r0\n\t"
        "ldrd r4, r7, [r8], #8\n\t"
        "strd r8, r9, [sp, #16]\n\t"
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

/* One pixel and these channels. */
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

/* Some duos of a group, from `duo` on, whose weights lie at `weights`, and all pixels. One pixel that is left at the end goes by itself; with
 * two of them one is done again. */
static k_once void k_duos_of(const int8_t *x, int8_t *y, const k_layer *l, const k_duo_weight *w, int32_t group, int32_t duo, int32_t duos,
                             const int32_t *weights, int32_t *column, int8_t *edge)
{
    const int32_t outputs = l->o / l->groups, whole = outputs / 2 - duo, pairs = duos < whole ? duos : whole, pixels = l->oh * l->ow;
    const int32_t *requant = w->requant + (group * ((outputs + 1) / 2) + duo) * 8;
    const int32_t words = w->fours * 2, from = pairs ? 2 * duo : outputs - 2, stop = pairs < duos ? outputs : from + 2 * duos;
    int32_t p, many;
    for (p = 0; p < pixels; p += many) {
        const int32_t left = pixels - p, wide = left >= 3 || (left == 2 && pixels > 2), first = wide && left == 2 ? p - 1 : p;
        int8_t *to = y + first * l->o + group * outputs;
        k_duo_job job;
        int32_t i;
        many = wide ? 3 : 1;
        k_duo_column(x, l, w, group, first, many, column, edge);
        job.column = column;
        job.end = column + words * many;
        job.skip = (w->fours == 1 ? 8 : (8 - (w->fours - 1) % 8) % 8) * 68;
        job.requant = requant;
        job.last = requant + pairs * 8;
        job.o = l->o;
        if (pairs)
            (wide ? k_duo_tile : k_duo_thin)(&job, weights, to + from);
        if (pairs < duos) {
            job.requant = job.last;
            job.last += 8;
            (wide ? k_duo_tile : k_duo_thin)(&job, weights + pairs * words, to + outputs - 2);
        }
        for (i = 0; (w->low > -128 || w->high < 127) && i < many; i++)
            k_clamp_i8(to + from + i * l->o, to + from + i * l->o, stop - from, w->low, w->high);
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
