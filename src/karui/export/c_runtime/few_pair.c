/* Ternary weights with two scales a channel, in panels of one or two bits: each sign reads its own meaning from the same numbers. */

#include <stdint.h>

/* A layer. `plus`, `minus`: the same codes, whose values are ones where weights are +1, and where they are −1. `opened`: scratch for two
 * panels, NULL where there is one pixel. */
static k_once void k_few_pair_i8(const int8_t *x, int8_t *y, const k_panels *l, const k_pair_weight *pair, const k_few *plus,
                                 const k_few *minus, const k_set *set, k_few_set few, uint8_t *copy, int8_t *opened)
{
    const int32_t outputs = l->o / l->groups, each = (outputs + 15) / 16, fours = l->runs_y * l->runs_x * l->fours;
    int32_t group, q, p, sums[8 * 32];
    k_bordered(x, l, set, copy);
    for (group = 0; group < l->groups; group++)
        for (q = 0; q < each; q++) {
            const int32_t first = group * outputs + q * 16, left = outputs - q * 16, panel = group * each + q;
            const uint8_t *codes = plus->codes + (size_t)panel * (size_t)fours * 8u * (size_t)plus->bits;
            if (l->pixels > 1) {
                few.open(plus, codes, fours, opened);
                few.open(minus, codes, fours, opened + fours * 64);
            }
            for (p = 0; p < l->pixels; p += 8) {
                const int32_t count = l->pixels - p < 8 ? l->pixels - p : 8;
                const uint8_t *at[8];
                k_starts(l, copy + group * l->length, p, at);
                if (l->pixels == 1) {
                    few.one(l, plus, codes, at[0], sums);
                    few.one(l, minus, codes, at[0], sums + 16);
                } else if (few.tile && plus->room) {
                    few.tile(l, plus, opened, 2, at, sums);
                } else {
                    set->tile(l, opened, fours * 64, 2, at, count == 1, sums);
                }
                k_pair_codes(pair, set, sums, 32, 16, count, panel, y + p * l->o + first, l->o, left);
            }
        }
}
