/* Integer layers in panels that have few fours (blocks of 16 channels and 4 inputs): each panel lists those that it has. Pixels go in sixteens,
 * and all panels meet the same sixteen, whose bytes stay near. */

#include <stdint.h>
#include <string.h>

/* Its sums of listed fours. */
static void k_listed_plain(const k_panels *l, const int32_t *list, int32_t fours, const int8_t *w, const uint8_t *const at[8],
                         int32_t *sums)
{
    int32_t i, j, o, k;
    for (i = 0; i < 8; i++, sums += 16) {
        memset(sums, 0, 16 * sizeof(int32_t));
        for (j = 0; j < fours; j++)
            for (o = 0; o < 16; o++)
                for (k = 0; k < 4; k++)
                    sums[o] += k_byte(l, at[i] + list[j] + k) * w[j * 64 + o * 4 + k];
    }
}

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

/* The layer. `copy`: scratch for the image in its border, or for sixteen pixels where it wants none, and 16 bytes more. */
static k_once void k_listed_i8(const int8_t *x, int8_t *y, const k_panels *l, const k_panel_weight *w, const k_set *set, uint8_t *copy)
{
    const int32_t outputs = l->o / l->groups, each = (outputs + 15) / 16;
    int32_t group, q, p, i;
    if (!l->bare)
        k_bordered(x, l, set, copy);
    for (p = 0; p < l->pixels; p += 16) {
        const int32_t count = l->pixels - p < 16 ? l->pixels - p : 16;
        const uint8_t *at[16];
        if (l->bare)
            k_gathered(x, l, set, p, copy, at);
        else {
            k_starts(l, copy, p, at);
            k_starts(l, copy, p + 8 < l->pixels ? p + 8 : l->pixels - 1, at + 8);
        }
        for (group = 0; group < l->groups; group++) {
            for (q = 0; q < each; q++)
                k_listed_codes(l, w, set, group * each + q, at, count, y + p * l->o + group * outputs + q * 16, outputs - q * 16);
            for (i = 0; i < 16; i++)
                at[i] += l->length;
        }
    }
}
