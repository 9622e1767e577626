/* What three pixels of an integer layer see, for Cortex-M: written out once as 16-bit numbers (a column), for all channels to meet. A column
 * is all the scratch that a layer needs, but where the image is small: then a copy of it in its border is read. */

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
    int32_t flat;           /* whether a pixel of y sees one of x, whole fours, in the same order */
    int32_t low, high;      /* codes */
} k_duo_weight;

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

/* Runs of three pixels: where the first ones begin, and bytes from a run's end to the line below. */
typedef struct {
    const int8_t *at[3];
    int32_t step;
} k_duo_runs;

/* Whole fours of runs of each of three pixels, line by line, into a column; returns where it ends. */
#if defined(K_DSP)
static __attribute__((naked, noinline)) int32_t *k_spread(const k_duo_runs *runs __attribute__((unused)),
                                                          int32_t fours __attribute__((unused)), int32_t *to __attribute__((unused)),
                                                          int32_t lines __attribute__((unused)))
{
    __asm__ volatile(
        ".syntax unified\n\t"
        "push {r4-r11, lr}\n\t"
        "mov lr, r3\n\t"
        "mov r3, r2\n\t"
        "movs r12, r1\n\t"
        "beq 3f\n\t"
        "ldm r0, {r0, r1, r2, r11}\n\t"
        "1:\n\t"
        "mov r10, r12\n\t"
        "2:\n\t"
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
        "subs r10, r10, #1\n\t"
        "bne 2b\n\t"
        "add r0, r0, r11\n\t"
        "add r1, r1, r11\n\t"
        "add r2, r2, r11\n\t"
        "subs lr, lr, #1\n\t"
        "bne 1b\n\t"
        "3:\n\t"
        "mov r0, r3\n\t"
        "pop {r4-r11, pc}\n\t");
}
#else
static int32_t *k_spread(const k_duo_runs *runs, int32_t fours, int32_t *to, int32_t lines)
{
    int32_t i, j, k;
    for (k = 0; k < lines; k++)
        for (j = 0; j < fours; j++, to += 6)
            for (i = 0; i < 3; i++) {
                const uint32_t v = k_word(runs->at[i] + k * (4 * fours + runs->step) + 4 * j);
                to[i] = k_even(v);
                to[i + 3] = k_odd(v);
            }
    return to;
}
#endif

/* The rest of these runs. */
static int32_t *k_spread_rest(const k_duo_runs *runs, int32_t length, int32_t rest, int32_t *to)
{
    int32_t i;
    for (i = 0; i < 3; i++) {
        const uint32_t v = k_tail(runs->at[i], length, rest);
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

/* The column of any pixels: as k_duo_column. */
static k_once void k_duo_look(const int8_t *x, const k_layer *l, const k_duo_weight *w, int32_t group, int32_t first, int32_t many,
                              int32_t *to, int8_t *edge)
{
    const int32_t length = w->length, fours = length / 4, rest = length % 4, high = l->h, wide = l->w, c = l->c, dy = l->dy, dx = l->dx;
    const int32_t taps = l->kw / w->runs_x, offset = group * (c / l->groups), last = wide - taps, kh = l->kh, runs_x = w->runs_x;
    const int32_t low = high - (kh - 1) * dy, right = last - (runs_x - 1) * dx; /* a pixel that sees no border begins before, and not behind */
    int32_t i, ky, rx, inside = many == 3 && rest == 0 && runs_x == 1, iy[3], ix[3], oy = first / l->ow, ox = first % l->ow;
    k_duo_runs runs;
    for (i = 0; i < many; i++) {
        const int32_t y = oy * l->sy - l->top, xx = ox * l->sx - l->left;
        iy[i] = y;
        ix[i] = xx;
        if (y < 0 || y >= low || xx < 0 || xx > right)
            inside = 0;
        if (++ox == l->ow) {
            ox = 0;
            oy++;
        }
    }
    if (inside) {
        for (i = 0; i < 3; i++)
            runs.at[i] = x + ((iy[i] * wide + ix[i]) * c + offset);
        runs.step = dy * wide * c - length;
        k_spread(&runs, fours, to, kh);
        return;
    }
    for (ky = 0; ky < kh; ky++)
        for (rx = 0; rx < runs_x; rx++) {
            for (i = 0; i < many; i++) {
                const int32_t y = iy[i] + ky * dy, xx = ix[i] + rx * dx;
                if (y >= 0 && y < high && xx >= 0 && xx <= last)
                    runs.at[i] = x + ((y * wide + xx) * c + offset);
                else {
                    k_edge(x, l, y, xx, taps, offset, length, w->border, edge + i * length);
                    runs.at[i] = edge + i * length;
                }
            }
            if (many == 3) {
                runs.step = 0;
                to = k_spread(&runs, fours, to, 1);
                if (rest)
                    to = k_spread_rest(&runs, length, rest, to);
            } else
                to = k_spread_one(runs.at[0], length, to);
        }
}

/* The column of the three pixels from `first` on, or of that one. `edge`: scratch for a run of each. */
static void k_duo_column(const int8_t *x, const k_layer *l, const k_duo_weight *w, int32_t group, int32_t first, int32_t many, int32_t *to,
                         int8_t *edge)
{
    const int32_t c = l->c;
    k_duo_runs runs;
    if (!w->flat || many != 3) {
        k_duo_look(x, l, w, group, first, many, to, edge);
        return;
    }
    runs.at[0] = x + first * c;
    runs.at[1] = runs.at[0] + c;
    runs.at[2] = runs.at[1] + c;
    runs.step = 0;
    k_spread(&runs, w->fours, to, 1);
}

/* The image in its border, `high` lines of `wide` pixels. */
static k_once void k_duo_border(const int8_t *x, const k_layer *l, int32_t border, int32_t high, int32_t wide, int8_t *copy)
{
    const int32_t c = l->c, line = l->w * c;
    int32_t i;
    memset(copy, border, (size_t)(high * wide * c));
    copy += (l->top * wide + l->left) * c;
    for (i = 0; i < l->h; i++, x += line, copy += wide * c)
        memcpy(copy, x, (size_t)line);
}
