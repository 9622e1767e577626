/* Integer layers in panels, for machines with vectors: sixteen output channels side by side, four inputs of each at a time, as the
 * instructions that multiply and add bytes in fours want them.
 *
 * The image is copied once, with its border, as bytes without a sign (code + 128) where the instructions want that. Then what a pixel sees
 * is a few runs of neighbouring bytes, and eight pixels meet one or two panels at a time. What a run holds beyond its end meets weights
 * that are zero. */

#include <stdint.h>
#include <string.h>

/* A layer's geometry. Lengths in the copy are in bytes. */
typedef struct {
    int32_t h, w, c, top, left;        /* the image, and where it lies in the copy */
    int32_t high, wide;                /* the copy: rows, and pixels of a row */
    int32_t pixels, ow, o, groups;     /* the output */
    int32_t down, along;               /* in the copy, from a row of output pixels to the next, and from a pixel to the next */
    int32_t runs_y, runs_x, run_y, run_x; /* the runs that a pixel sees, and how far they are apart */
    int32_t length, fours;             /* inputs of a run, and the fours that hold them */
    int32_t unsign;                    /* 128 where bytes of the copy are codes + 128, else 0 */
    int32_t border;                    /* the byte that stands for nothing */
    int32_t bare;                      /* a pixel sees only itself, so the image wants no border */
} k_panels;

/* Numbers of the output channels, sixteen to a panel; those that fill up the last one are zero. y = (sum · multiplier + bias) >> shift. */
typedef struct k_panel_weight k_panel_weight;
struct k_panel_weight {
    const int8_t *weights;     /* [panels][runs][fours][16][4], or NULL: */
    const int32_t *list;       /* or the fours that each panel has, one after the other: how far from a pixel's start their bytes lie */
    const int32_t *ends;       /* [panels]: where its fours end in the list, and in `weights` */
    const k_weight *coded;     /* `unpack` makes a panel of up to sixteen rows of it, with `deep` inputs to a four (1: a depthwise layer), */
    void (*unpack)(const k_panels *l, const k_panel_weight *w, k_cursor *cursor, int32_t first, int32_t rows, int32_t panel, int32_t deep,
                   k_index *index, int8_t *stored, int8_t *row, int8_t *unpacked, int64_t bias[16]); /* and its biases; rows in order */
    const int32_t *multiplier;
    const int64_t *bias;       /* of a panel, those of its even channels, then of its odd ones; so do shifts lie. It holds what the */
    const int64_t *shift;      /* border and the 128 add to the sums, too, but for weights that are decoded */
    const int32_t *start;      /* or NULL, [panels][16]: what is added to each sum before */
    const float *reals;       /* or NULL, [panels][3][16]: y = ⌊sum · upper + (sum · lower + rest)⌋, the outer sum rounded down: the same y */
    int32_t quick;             /* every shift is 32 or more, and every y fits in 32 bits before it is clamped */
    int32_t low, high;         /* codes */
};

/* What a set of instructions brings. `tile`: sums[8][panels][16] of eight pixels (of one only, where `one`) and one or two panels, which lie
 * `far` bytes apart. `listed`: sums[8][16] of a panel that has few fours. `depth`: of a depthwise layer's panel. `add`: codes plus codes.
 * `quantize`: floats to codes. `lookup`: through a table [256] of bytes. `lists`, or NULL: codes of up to sixteen pixels from a panel that
 * has few fours; where fewer, the last one's start stands in for those behind it. `copy`: codes, as they are or without a sign.
 * `codes`, or NULL: both, of up to eight pixels from two panels that have `reals`.
 * `deep`, or NULL: up to 64 channels, from `first` on, of a depthwise layer that has `reals` and at most 16 fours of taps in its lines.
 * `store`: the codes of `count` pixels from `panel` on, whose biases are `bias`; `o`: from pixel to pixel of y; `left`: channels to come. */
typedef struct {
    void (*tile)(const k_panels *l, const int8_t *w, int32_t far, int32_t panels, const uint8_t *const at[8], int32_t one, int32_t *sums);
    void (*listed)(const k_panels *l, const int32_t *list, int32_t fours, const int8_t *w, const uint8_t *const at[8], int32_t *sums);
    void (*depth)(const k_panels *l, const int8_t *w, const uint8_t *const at[8], int32_t *sums);
    void (*store)(const int32_t *sums, int32_t count, int32_t panels, const k_panel_weight *w, int32_t panel, const int64_t *bias, int8_t *y,
                  int32_t o, int32_t left);
    void (*add)(const int8_t *a, const int8_t *b, int8_t *y, int32_t count, const k_pair *p);
    void (*quantize)(const float *x, int8_t *y, int32_t count, float scale, int32_t zero, int32_t low, int32_t high);
    void (*lookup)(const void *x, void *y, int32_t count, const void *table);
    void (*copy)(const int8_t *x, uint8_t *y, int32_t count, int32_t unsign);
    void (*lists)(const k_panels *l, const k_panel_weight *w, int32_t panel, const uint8_t *const at[16], int32_t count, int8_t *y,
                  int32_t left);
    void (*codes)(const k_panels *l, const int8_t *weights, int32_t far, const k_panel_weight *w, int32_t panel, const uint8_t *const at[8],
                  int32_t count, int8_t *y, int32_t left);
    void (*deep)(const k_panels *l, const k_panel_weight *w, int32_t first, const uint8_t *copy, int8_t *y);
} k_set;

/* Fours whose weights stay near, so that all panels may meet some pixels before they meet the next. */
#define k_most_fours 512

/* Products that are worth waking a thread for. */
#define k_worth ((int64_t)1 << 21)

/* The image in its border. */
static k_once void k_bordered(const int8_t *x, const k_panels *l, const k_set *set, uint8_t *copy)
{
    const int32_t line = l->wide * l->c, width = l->w * l->c, before = l->left * l->c;
    int32_t y;
    for (y = 0; y < l->high; y++, copy += line) {
        if (y < l->top || y >= l->top + l->h) {
            memset(copy, l->border, (size_t)line);
            continue;
        }
        memset(copy, l->border, (size_t)before);
        set->copy(x + (y - l->top) * width, copy + before, width, l->unsign);
        memset(copy + before + width, l->border, (size_t)(line - before - width));
    }
}

/* Where the eight pixels from `first` on begin in the copy; the last one stands in for those behind it. */
static void k_starts(const k_panels *l, const uint8_t *copy, int32_t first, const uint8_t *at[8])
{
    int32_t i, y = first / l->ow, x = first % l->ow;
    const uint8_t *from = copy + y * l->down + x * l->along;
    for (i = 0; x + 8 <= l->ow && i < 8; i++, from += l->along)
        at[i] = from;
    for (; i < 8; i++) {
        at[i] = copy + y * l->down + x * l->along;
        if (first + i + 1 < l->pixels && ++x == l->ow) {
            x = 0;
            y++;
        }
    }
}

/* The biases of a panel whose weights are decoded: with what the border and the 128 add to each sum. */
static void k_shifted(const k_panel_weight *w, int32_t panel, const int32_t extra[16], int64_t bias[16])
{
    int32_t j;
    for (j = 0; j < 16; j++) {
        const int32_t place = j % 2 * 8 + j / 2;
        bias[place] = w->bias[panel * 16 + place] + (int64_t)extra[j] * w->multiplier[panel * 16 + j];
    }
}

/* What `unpack` does. */
static void k_unpack(const k_panels *l, const k_panel_weight *w, k_cursor *cursor, int32_t first, int32_t rows, int32_t panel,
                              int32_t deep, k_index *index, int8_t *stored, int8_t *row, int8_t *unpacked, int64_t bias[16])
{
    const int32_t runs = l->runs_y * l->runs_x, length = l->length, step = l->fours * 16 * deep;
    int32_t j, r, i, extra[16] = {0};
    memset(unpacked, 0, (size_t)(runs * step));
    for (j = 0; j < rows; j++) {
        int8_t *to = unpacked + j * deep;
        const int8_t *from = row;
        int32_t sum = 0;
        k_row_codes(w->coded, cursor, first + j, index, stored, row);
        for (i = 0; i < runs * length; i++)
            sum += from[i];
        for (r = 0; r < runs; r++, from += length, to += step) {
            const int32_t whole = deep == 4 ? length / 4 * 4 : 0;
            for (i = 0; i < whole; i += 4)
                memcpy(to + 16 * i, from + i, 4);
            for (; i < length; i++)
                to[i / deep * 16 * deep + i % deep] = from[i];
        }
        extra[j] = -l->border * sum;
    }
    k_shifted(w, panel, extra, bias);
}

/* Pixels `from` … `to` of one or two panels. */
static void k_panels_of(const k_panels *l, const k_panel_weight *w, const k_set *set, const uint8_t *copy, int8_t *y, int32_t group,
                        int32_t q, int32_t from, int32_t to, const int8_t *weights, const int64_t *bias)
{
    const int32_t outputs = l->o / l->groups, first = group * outputs + q * 16, left = outputs - q * 16, panels = left > 16 ? 2 : 1;
    const int32_t panel = group * ((outputs + 15) / 16) + q, size = l->runs_y * l->runs_x * l->fours * 64;
    int32_t p, sums[8 * 32];
    for (p = from; p < to; p += 8) {
        const int32_t count = to - p < 8 ? to - p : 8;
        const uint8_t *at[8];
        k_starts(l, copy + group * l->length, p, at);
        if (set->codes && w->reals && panels == 2 && count > 1) {
            set->codes(l, weights, size, w, panel, at, count, y + p * l->o + first, left);
            continue;
        }
        set->tile(l, weights, size, panels, at, count == 1, sums);
        set->store(sums, count, panels, w, panel, bias, y + p * l->o + first, l->o, left);
    }
}

/* A layer whose weights lie there, as a job. */
typedef struct {
    const k_panels *l;
    const k_panel_weight *w;
    const k_set *set;
    const int8_t *x;
    uint8_t *copy;
    int8_t *y;
} k_panel_job;

/* Codes of up to sixteen pixels from one panel. */
static void k_listed_codes(const k_panels *l, const k_panel_weight *w, const k_set *set, int32_t panel, const uint8_t *const at[16],
                           int32_t count, int8_t *y, int32_t left)
{
    const int32_t from = panel ? w->ends[panel - 1] : 0;
    int32_t i, sums[8 * 16];
    if (set->lists) {
        set->lists(l, w, panel, at, count, y, left);
        return;
    }
    for (i = 0; i < count; i += 8) {
        set->listed(l, w->list + from, w->ends[panel] - from, w->weights + from * 64, at + i, sums);
        set->store(sums, count - i < 8 ? count - i : 8, 1, w, panel, w->bias + panel * 16, y + i * l->o, l->o, left);
    }
}

/* A layer whose pixels see only themselves: the bytes of sixteen, side by side; those behind the last one are the last one's. */
static void k_gathered(const int8_t *x, const k_panels *l, const k_set *set, int32_t first, uint8_t *block, const uint8_t *at[16])
{
    const uint8_t *from[16];
    int32_t i;
    k_starts(l, (const uint8_t *)x, first, from);
    k_starts(l, (const uint8_t *)x, first + 8 < l->pixels ? first + 8 : l->pixels - 1, from + 8);
    for (i = 0; i < 16; i++)
        at[i] = block + i * l->c;
    if (from[15] - from[0] == 15 * l->c)
        set->copy((const int8_t *)from[0], block, 16 * l->c, l->unsign);
    else
        for (i = 0; i < 16; i++)
            set->copy((const int8_t *)from[i], block + i * l->c, l->c, l->unsign);
}

/* A part of a layer: sixteen pixels after sixteen, which all panels meet. Where it wants no border, bytes of each part's pixels lie apart. */
static void k_sixteens_part(const void *whole, int32_t part, int32_t parts)
{
    const k_panel_job *job = whole;
    const k_panels *l = job->l;
    const k_panel_weight *w = job->w;
    const k_set *set = job->set;
    int8_t *y = job->y;
    const int32_t outputs = l->o / l->groups, each = (outputs + 15) / 16, sixteens = (l->pixels + 15) / 16;
    const int32_t from = sixteens * part / parts * 16, to = part + 1 < parts ? sixteens * (part + 1) / parts * 16 : l->pixels;
    int32_t group, q, p, i;
    for (p = from; p < to; p += 16) {
        const int32_t count = to - p < 16 ? to - p : 16;
        const uint8_t *at[16];
        if (l->bare)
            k_gathered(job->x, l, set, p, job->copy + from * l->c, at);
        else {
            k_starts(l, job->copy, p, at);
            k_starts(l, job->copy, p + 8 < l->pixels ? p + 8 : l->pixels - 1, at + 8);
        }
        for (group = 0; group < l->groups; group++) {
            for (q = 0; q < each; q++)
                k_listed_codes(l, w, set, group * each + q, at, count, y + p * l->o + group * outputs + q * 16, outputs - q * 16);
            for (i = 0; i < 16; i++)
                at[i] += l->length;
        }
    }
}

/* A part of it: eights of pixels where there are many, else panels. */
static void k_panels_part(const void *whole, int32_t part, int32_t parts)
{
    const k_panel_job *job = whole;
    const k_panels *l = job->l;
    const int32_t outputs = l->o / l->groups, each = (outputs + 15) / 16, size = l->runs_y * l->runs_x * l->fours * 64;
    const int32_t eights = (l->pixels + 7) / 8, wide = eights >= 2 * parts;
    const int32_t from = wide ? eights * part / parts * 8 : 0, to = wide && part + 1 < parts ? eights * (part + 1) / parts * 8 : l->pixels;
    int32_t group, q, pair = 0;
    for (group = 0; group < l->groups; group++)
        for (q = 0; q < each; q += 2, pair++) {
            const int32_t panel = group * each + q;
            const int8_t *weights = job->w->weights + (size_t)panel * (size_t)size;
            if (wide || pair % parts == part)
                k_panels_of(l, job->w, job->set, job->copy, job->y, group, q, from, to, weights, job->w->bias + panel * 16);
        }
}

/* In parts, where there are so many products; `weights`: bytes of them that each pixel meets. */
static void k_shared(k_part *part, const k_panel_job *job, int64_t weights)
{
    if (job->l->pixels * weights < k_worth)
        part(job, 0, 1);
    else
        k_parallel(part, job);
}

/* A layer in full whose weights stay near, as if it were listed. There are at most `k_most_fours` of them: its loops say so once more, to
 * compilers that look at this alone. */
static void k_close_i8(const int8_t *x, int8_t *y, const k_panels *l, const k_panel_weight *w, const k_set *set, uint8_t *copy)
{
    const int32_t panels = l->groups * ((l->o / l->groups + 15) / 16);
    int32_t list[k_most_fours], ends[k_most_fours], i;
    k_panel_weight listed = *w;
    const k_panel_job job = {l, &listed, set, x, copy, y};
    for (i = 0; i < panels * l->fours && i < k_most_fours; i++)
        list[i] = i % l->fours * 4;
    for (i = 0; i < panels && i < k_most_fours; i++)
        ends[i] = (i + 1) * l->fours;
    listed.list = list;
    listed.ends = ends;
    k_shared(k_sixteens_part, &job, panels * l->fours * 64);
}

/* A layer. `copy`: scratch for the image in its border and 16 bytes more; the rest: scratch where weights are decoded, or NULL. */
static k_once void k_panels_i8(const int8_t *x, int8_t *y, const k_panels *l, const k_panel_weight *w, const k_set *set, uint8_t *copy,
                               int8_t *unpacked, int8_t *row, k_index *index, int8_t *stored)
{
    const int32_t outputs = l->o / l->groups, each = (outputs + 15) / 16, size = l->runs_y * l->runs_x * l->fours * 64;
    k_cursor cursor = k_start();
    int32_t group, q, i, panels;
    if (set->lists && w->reals && !w->unpack && l->bare && l->pixels >= 16 && l->groups * each * size <= 64 * k_most_fours) {
        k_close_i8(x, y, l, w, set, copy);
        return;
    }
    k_bordered(x, l, set, copy);
    if (!w->unpack) {
        const k_panel_job job = {l, w, set, x, copy, y};
        k_shared(k_panels_part, &job, (int64_t)l->groups * each * size);
        return;
    }
    for (group = 0; group < l->groups; group++)
        for (q = 0; q < each; q += panels) {
            const int32_t first = group * outputs + q * 16, left = outputs - q * 16;
            int64_t decoded[32];
            panels = left > 16 ? 2 : 1;
            for (i = 0; i < panels; i++) {
                const int32_t rows = left - 16 * i < 16 ? left - 16 * i : 16, panel = group * each + q + i;
                w->unpack(l, w, &cursor, first + 16 * i, rows, panel, 4, index, stored, row, unpacked + i * size, decoded + i * 16);
            }
            k_panels_of(l, w, set, copy, y, group, q, 0, l->pixels, unpacked, decoded);
        }
}

/* A depthwise layer; its weights are [panels][taps][16]. Scratch as above, with 16 bytes and a pixel more behind the copy. */
static k_once void k_depth_i8(const int8_t *x, int8_t *y, const k_panels *l, const k_panel_weight *w, const k_set *set, uint8_t *copy,
                              int8_t *unpacked, int8_t *row, k_index *index, int8_t *stored)
{
    const int32_t taps = l->runs_y * l->runs_x;
    k_cursor cursor = k_start();
    int32_t p, first, sums[8 * 16];
    k_bordered(x, l, set, copy);
    for (first = 0; first < l->o; first += 16) {
        if (set->deep && w->reals && !w->unpack && l->runs_y * ((l->runs_x + 3) / 4) <= 16 && l->o - first > 16) {
            set->deep(l, w, first, copy, y);
            first += 48;
            continue;
        }
        const int8_t *weights = w->weights ? w->weights + first * taps : unpacked;
        const int64_t *bias = w->bias + first;
        const int32_t left = l->o - first;
        int64_t decoded[16];
        if (w->unpack) {
            w->unpack(l, w, &cursor, first, left < 16 ? left : 16, first / 16, 1, index, stored, row, unpacked, decoded);
            bias = decoded;
        }
        for (p = 0; p < l->pixels; p += 8) {
            const int32_t count = l->pixels - p < 8 ? l->pixels - p : 8;
            const uint8_t *at[8];
            k_starts(l, copy + first, p, at);
            set->depth(l, weights, at, sums);
            set->store(sums, count, 1, w, first / 16, bias, y + p * l->o + first, l->o, left);
        }
    }
}
