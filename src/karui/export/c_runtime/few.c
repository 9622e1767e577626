/* Integer layers whose weights are of at most sixteen values, over bytes: numbers of 1 … 4 bits in panels, which one or two instructions
 * make bytes, a four at a time. With many pixels a panel is opened once, into scratch, and then is any panel; of a single pixel weights are
 * opened in registers and never written, so that such a layer gains from having fewer bytes to read. A depthwise layer's are opened at once. */

#include <stdint.h>

/* Weights of few bits. codes: [panels][runs][fours][8 · bits] bytes. Of 1 bit, a four's byte j holds its numbers 8 j … 8 j + 7; else its
 * numbers j, j + 8 · bits, …, the first in its lowest bits. Of 3 bits there are the lower two as if of 2 bits, then the upper as if of 1. */
typedef struct {
    const uint8_t *codes;
    const int8_t *values; /* [16]: what the numbers mean */
    int32_t bits;         /* 1 … 4 */
    int32_t room;         /* so many times a sum of 16 bits bears two bytes' products, or 0 */
} k_few;

/* What a set of instructions brings for them. `open`: bytes of so many fours. `one`: sums[16] of one pixel and one panel. `tile`: as that of
 * `k_set`, of eight pixels and opened panels, where sums of 16 bits have room; NULL where that would be no faster. */
typedef struct {
    void (*open)(const k_few *f, const uint8_t *codes, int32_t fours, int8_t *bytes);
    void (*one)(const k_panels *l, const k_few *f, const uint8_t *codes, const uint8_t *at, int32_t *sums);
    void (*tile)(const k_panels *l, const k_few *f, const int8_t *w, int32_t panels, const uint8_t *const at[8], int32_t *sums);
} k_few_set;

/* A layer as a job; `opened`: bytes of the one or two panels from `q` of `group` on. */
typedef struct {
    const k_panels *l;
    const k_panel_weight *w;
    const k_few *f;
    const k_set *set;
    const k_few_set *few;
    const uint8_t *copy;
    const int8_t *opened;
    int8_t *y;
    int32_t group, q;
} k_few_job;

/* A part of those panels: eights of pixels. */
static void k_few_part(const void *some, int32_t part, int32_t parts)
{
    const k_few_job *j = some;
    const k_panels *l = j->l;
    const int32_t eights = (l->pixels + 7) / 8, from = eights * part / parts * 8, whole = eights * (part + 1) / parts * 8;
    const int32_t outputs = l->o / l->groups, first = j->q * 16, left = outputs - first, panels = left > 16 ? 2 : 1;
    const int32_t panel = j->group * ((outputs + 15) / 16) + j->q, to = whole < l->pixels ? whole : l->pixels;
    int8_t *y = j->y + j->group * outputs + first;
    int32_t p, sums[8 * 32];
    if (!j->few->tile || !j->f->room) {
        k_panels_of(l, j->w, j->set, j->copy, j->y, j->group, j->q, from, to, j->opened, j->w->bias + panel * 16);
        return;
    }
    for (p = from; p < to; p += 8) {
        const uint8_t *at[8];
        k_starts(l, j->copy + j->group * l->length, p, at);
        j->few->tile(l, j->f, j->opened, panels, at, sums);
        j->set->store(sums, to - p < 8 ? to - p : 8, panels, j->w, panel, j->w->bias + panel * 16, y + p * l->o, l->o, left);
    }
}

/* A part of a layer of one pixel: panels. */
static void k_few_ones(const void *whole, int32_t part, int32_t parts)
{
    const k_few_job *j = whole;
    const k_panels *l = j->l;
    const int32_t outputs = l->o / l->groups, each = (outputs + 15) / 16, all = l->groups * each;
    const int32_t size = l->runs_y * l->runs_x * l->fours * 8 * j->f->bits;
    int32_t panel, sums[16];
    for (panel = all * part / parts; panel < all * (part + 1) / parts; panel++) {
        const int32_t group = panel / each, first = panel % each * 16;
        j->few->one(l, j->f, j->f->codes + (size_t)panel * (size_t)size, j->copy + group * l->length, sums);
        j->set->store(sums, 1, 1, j->w, panel, j->w->bias + panel * 16, j->y + group * outputs + first, l->o, outputs - first);
    }
}

/* A layer. `copy`: scratch for the image in its border and 16 bytes more; `opened`: of one or two panels, NULL where there is one pixel. */
static k_once void k_few_i8(const int8_t *x, int8_t *y, const k_panels *l, const k_panel_weight *w, const k_few *f, const k_set *set,
                            k_few_set few, uint8_t *copy, int8_t *opened)
{
    const int32_t outputs = l->o / l->groups, each = (outputs + 15) / 16, fours = l->runs_y * l->runs_x * l->fours;
    const int64_t panel = (int64_t)l->pixels * fours * 64;
    k_few_job job = {l, w, f, set, &few, copy, opened, y, 0, 0};
    k_part *const part = l->pixels == 1 ? k_few_ones : k_few_part;
    k_bordered(x, l, set, copy);
    if (l->pixels == 1 && l->groups * each * panel >= k_worth)
        k_parallel(part, &job);
    else if (l->pixels == 1)
        part(&job, 0, 1);
    for (; l->pixels > 1 && job.group < l->groups; job.group++)
        for (job.q = 0; job.q < each; job.q += 2) {
            const int32_t panels = each - job.q > 1 ? 2 : 1, first = job.group * each + job.q;
            few.open(f, f->codes + (size_t)first * (size_t)fours * 8u * (size_t)f->bits, panels * fours, opened);
            if (panels * panel >= k_worth)
                k_parallel(part, &job);
            else
                part(&job, 0, 1);
        }
}

/* A depthwise layer; its numbers are [panels][taps][16], one after the other, and are opened once: `opened` has room for all of them. */
static k_once void k_few_depth_i8(const int8_t *x, int8_t *y, const k_panels *l, const k_panel_weight *w, const k_few *f, const k_set *set,
                                  k_few_set few, uint8_t *copy, int8_t *opened)
{
    k_panel_weight plain = *w;
    few.open(f, f->codes, ((l->o + 15) / 16 * l->runs_y * l->runs_x + 3) / 4, opened);
    plain.weights = opened;
    k_depth_i8(x, y, l, &plain, set, copy, NULL, NULL, NULL, NULL);
}

/* The set that every machine has. */
static void k_open_plain(const k_few *f, const uint8_t *codes, int32_t fours, int8_t *bytes)
{
    const int32_t size = 8 * f->bits, each = f->bits == 4 ? 4 : 2, part = 8 * each, mask = (1 << each) - 1;
    int32_t j, k;
    for (j = 0; j < fours; j++, codes += size, bytes += 64)
        for (k = 0; k < 64; k++) {
            const int32_t upper = f->bits % 2 ? codes[size - 8 + k / 8] >> k % 8 & 1 : 0;
            const int32_t lower = f->bits == 1 ? 0 : codes[k % part] >> k / part * each & mask;
            bytes[k] = f->values[lower | upper << (f->bits - 1)];
        }
}

/* Its sums of one pixel. */
static void k_few_one_plain(const k_panels *l, const k_few *f, const uint8_t *codes, const uint8_t *at, int32_t *sums)
{
    int32_t ry, rx, j, o, k;
    memset(sums, 0, 16 * sizeof(int32_t));
    for (ry = 0; ry < l->runs_y; ry++)
        for (rx = 0; rx < l->runs_x; rx++) {
            const uint8_t *from = at + ry * l->run_y + rx * l->run_x;
            for (j = 0; j < l->fours; j++, from += 4, codes += 8 * f->bits) {
                int8_t four[64];
                k_open_plain(f, codes, 1, four);
                for (o = 0; o < 16; o++)
                    for (k = 0; k < 4; k++)
                        sums[o] += k_byte(l, from + k) * four[o * 4 + k];
            }
        }
}
