/* Integer layers by twos (duo.c) that skip zeros: of each duo only the fours of inputs that hold any weight.
 *
 * A duo is what its sums start with (of channel a, of the words as they are), from the end of the list before to its own in bytes, the words of
 * its fours, and of a and of b: multiplier, high word of the bias, shift − 32. Its list says where in a column of three pixels they lie, in bytes:
 * from the column's start to the first, from the end of each to the next, and back to the start, which is below zero and the list's end. Duos
 * whose zeros are in the same places share a list. */

#include <stdint.h>

/* One pixel or three, and the duos up to `end`. */
static k_once void k_skipping_plain(const int32_t *column, const int32_t *duo, int8_t *y, int32_t o, const int16_t *list, const int32_t *end,
                                  int32_t many)
{
    int32_t i, skip;
    for (; duo < end; duo += 6, y += 2) {
        int32_t a[3], all[3];
        for (i = 0; i < many; i++) {
            a[i] = duo[0];
            all[i] = duo[1];
        }
        list += duo[2] / 2;
        duo += 3;
        skip = *list++;
        do {
            column += skip / 24 * 2 * many;
            for (i = 0; i < 2 * many; i++) {
                const int32_t word = duo[i / many], at = i % many;
                all[at] = k_both(word, column[i], all[at]);
                a[at] = k_both(k_even((uint32_t)word), column[i], a[at]);
            }
            column += 2 * many;
            duo += 2;
            skip = *list++;
        } while (skip >= 0);
        column += skip / 24 * 2 * many;
        for (i = 0; i < many; i++) {
            y[i * o] = k_high_code(a[i], duo);
            y[i * o + 1] = k_high_code((int32_t)((uint32_t)all[i] - (uint32_t)a[i]), duo + 3);
        }
    }
}

/* The text of a sum that becomes a code. r8 … r10: multiplier, bias, shift. */
#define k_skipping_result(sum, place)            \
    "smmla " sum ", " sum ", r8, r9\n\t"       \
    "asr " sum ", " sum ", r10\n\t"            \
    "ssat " sum ", #8, " sum "\n\t"            \
    "strb " sum ", [" place "\n\t"

/* Three pixels, in twenty instructions a four. Only a step back to the start makes a carry. */
#if defined(K_DSP)
static __attribute__((naked, noinline)) void k_skipping_tile(const int32_t *column __attribute__((unused)),
                                                           const int32_t *duo __attribute__((unused)),
                                                           int8_t *y __attribute__((unused)), int32_t o __attribute__((unused)),
                                                           const int16_t *list __attribute__((unused)),
                                                           const int32_t *end __attribute__((unused)))
{
    __asm__ volatile(
        ".syntax unified\n\t"
        "push {r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, lr}\n\t"
        "ldr lr, [sp, #44]\n\t"
        "1:\n\t"
        "ldm r1!, {r4, r7, r8}\n\t"
        "mov r2, r4\n\t"
        "mov r3, r4\n\t"
        "mov r5, r7\n\t"
        "mov r6, r7\n\t"
        "add lr, lr, r8\n\t"
        "ldrsh r8, [lr], #2\n\t"
        "add r0, r0, r8\n\t"
        "2:\n\t"
        k_duo_four
        "ldrsh r8, [lr], #2\n\t"
        "adds r0, r0, r8\n\t"
        "bcc 2b\n\t"
        "sub r5, r5, r2\n\t"
        "sub r6, r6, r3\n\t"
        "sub r7, r7, r4\n\t"
        "ldrd r11, r12, [sp]\n\t"
        "ldm r1!, {r8, r9, r10}\n\t"
        k_skipping_result("r3", "r11, r12]")
        k_skipping_result("r4", "r11, r12, lsl #1]")
        k_skipping_result("r2", "r11], #1")
        "ldm r1!, {r8, r9, r10}\n\t"
        k_skipping_result("r6", "r11, r12]")
        k_skipping_result("r7", "r11, r12, lsl #1]")
        k_skipping_result("r5", "r11], #1")
        "str r11, [sp]\n\t"
        "ldr r8, [sp, #48]\n\t"
        "cmp r1, r8\n\t"
        "bne 1b\n\t"
        "pop {r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, pc}\n\t");
}
#else
static k_once void k_skipping_tile(const int32_t *column, const int32_t *duo, int8_t *y, int32_t o, const int16_t *list, const int32_t *end)
{
    k_skipping_plain(column, duo, y, o, list, end, 3);
}
#endif

/* A layer whose `w->weights` are duos as above. `ends`: [groups][2], where the duos of a group end, and with them the one that an odd number of
 * channels has besides: its last but one channel is there twice. The first list of each part is counted from `lists`. The rest: as duo.c. */
static k_once void k_duos_listed_i8(const int8_t *x, int8_t *y, const k_layer *l, const k_duo_weight *w, const int16_t *lists,
                                    const int32_t *ends, int32_t *column, int8_t *edge)
{
    const int32_t outputs = l->o / l->groups, pixels = l->oh * l->ow;
    const int32_t *duo = w->weights;
    int32_t group, p, many, i, odd;
    for (group = 0; group < l->groups; group++, ends += 2) {
        for (p = 0; p < pixels; p += many) {
            const int32_t left = pixels - p, wide = left >= 3 || (left == 2 && pixels > 2), first = wide && left == 2 ? p - 1 : p;
            int8_t *const to = y + first * l->o + group * outputs;
            many = wide ? 3 : 1;
            k_duo_column(x, l, w, group, first, many, column, edge);
            for (odd = 0; odd < 2; odd++) {
                const int32_t *const from = odd ? w->weights + ends[0] : duo, *const end = w->weights + ends[odd];
                if (from < end && wide)
                    k_skipping_tile(column, from, to + odd * (outputs - 2), l->o, lists, end);
                else if (from < end)
                    k_skipping_plain(column, from, to + odd * (outputs - 2), l->o, lists, end, 1);
            }
            for (i = 0; (w->low > -128 || w->high < 127) && i < many; i++)
                k_duo_clamp(to + i * l->o, outputs, w->low, w->high);
        }
        duo = w->weights + ends[1];
    }
}
