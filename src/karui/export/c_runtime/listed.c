/* Integer layers in panels that have few fours (blocks of 16 channels and 4 inputs): each panel lists those that it has. */

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

/* The layer. `copy`: scratch for the image in its border, or for sixteen pixels of each part where it wants none, and 16 bytes more. */
static k_once void k_listed_i8(const int8_t *x, int8_t *y, const k_panels *l, const k_panel_weight *w, const k_set *set, uint8_t *copy)
{
    const int32_t each = (l->o / l->groups + 15) / 16;
    const k_panel_job job = {l, w, set, x, copy, y};
    if (!l->bare)
        k_bordered(x, l, set, copy);
    k_shared(k_sixteens_part, &job, (int64_t)w->ends[l->groups * each - 1] * 64);
}
