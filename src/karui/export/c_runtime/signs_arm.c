/* Layers of signs on 64-bit ARM: NEON, which counts the ones of each byte. A register holds sixteen channels. */

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

/* Counts of one pixel and thirty-two channels. Then: added to counts of 16 bits, and set to zero; and as sums. */
#if defined(K_ARM64)
#define k_count_neon(a, b, p) \
    x = vld1q_dup_u8(p); \
    a = vaddq_u8(a, vcntq_u8(veorq_u8(x, first))); \
    b = vaddq_u8(b, vcntq_u8(veorq_u8(x, second)))
#define k_widen_neon(counts, a) \
    (counts)[0] = vaddw_u8((counts)[0], vget_low_u8(a)); \
    (counts)[1] = vaddw_u8((counts)[1], vget_high_u8(a)); \
    a = vdupq_n_u8(0)
#endif

/* Counts of one pixel and block as sums. */
#if defined(K_ARM64)
static void k_negative_neon(const uint16x8_t counts[4], int32_t step, int32_t *sums)
{
    int32_t i;
    for (i = 0; i < 4; i++) {
        vst1q_s32(sums + 8 * i, vmulq_n_s32(vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(counts[i]))), -step));
        vst1q_s32(sums + 8 * i + 4, vmulq_n_s32(vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(counts[i]))), -step));
    }
}
#endif

/* Sums of four pixels and a block. */
#if defined(K_ARM64)
static void k_four_signs_neon(const k_signs *l, const uint8_t *w, const uint8_t *const at[4], int32_t *sums)
{
    const k_panels *lay = &l->lay;
    const uint8x16_t zero = vdupq_n_u8(0);
    uint8x16_t a0 = zero, a1 = zero, a2 = zero, a3 = zero, b0 = zero, b1 = zero, b2 = zero, b3 = zero, x;
    uint16x8_t counts[16];
    int32_t plane, ry, rx, j, stop, i, room = 31; /* steps until a byte may be full */
    for (i = 0; i < 16; i++)
        counts[i] = vdupq_n_u16(0);
    for (plane = l->planes - 1; plane >= 0; plane--) {
        const uint8_t *u = w;
        for (i = 0; i < 16; i++)
            counts[i] = vaddq_u16(counts[i], counts[i]);
        for (ry = 0; ry < lay->runs_y; ry++)
            for (rx = 0; rx < lay->runs_x; rx++) {
                const int32_t run = plane * l->whole + ry * lay->run_y + rx * lay->run_x;
                const uint8_t *p = at[0] + run, *q = at[1] + run, *r = at[2] + run, *s = at[3] + run;
                for (j = 0; j < lay->fours; j = stop) {
                    stop = j + room < lay->fours ? j + room : lay->fours;
                    room -= stop - j;
                    for (; j < stop; j++, u += 32) {
                        const uint8x16_t first = vld1q_u8(u), second = vld1q_u8(u + 16);
                        k_count_neon(a0, b0, p + j);
                        k_count_neon(a1, b1, q + j);
                        k_count_neon(a2, b2, r + j);
                        k_count_neon(a3, b3, s + j);
                    }
                    if (room == 0 || (ry == lay->runs_y - 1 && rx == lay->runs_x - 1 && stop == lay->fours)) {
                        k_widen_neon(counts, a0);
                        k_widen_neon(counts + 2, b0);
                        k_widen_neon(counts + 4, a1);
                        k_widen_neon(counts + 6, b1);
                        k_widen_neon(counts + 8, a2);
                        k_widen_neon(counts + 10, b2);
                        k_widen_neon(counts + 12, a3);
                        k_widen_neon(counts + 14, b3);
                        room = 31;
                    }
                }
            }
    }
    for (i = 0; i < 4; i++)
        k_negative_neon(counts + 4 * i, l->step, sums + 32 * i);
}
#endif

/* Sums of one pixel and a block. */
#if defined(K_ARM64)
static void k_one_signs_neon(const k_signs *l, const uint8_t *w, const uint8_t *at, int32_t *sums)
{
    const k_panels *lay = &l->lay;
    uint16x8_t counts[4];
    int32_t plane, ry, rx, j, stop, i;
    for (i = 0; i < 4; i++)
        counts[i] = vdupq_n_u16(0);
    for (plane = l->planes - 1; plane >= 0; plane--) {
        const uint8_t *u = w;
        for (i = 0; i < 4; i++)
            counts[i] = vaddq_u16(counts[i], counts[i]);
        for (ry = 0; ry < lay->runs_y; ry++)
            for (rx = 0; rx < lay->runs_x; rx++) {
                const uint8_t *p = at + plane * l->whole + ry * lay->run_y + rx * lay->run_x;
                for (j = 0; j < lay->fours; j = stop) {
                    uint8x16_t a = vdupq_n_u8(0), b = a, x;
                    for (stop = j + 31 < lay->fours ? j + 31 : lay->fours; j < stop; j++, u += 32) {
                        const uint8x16_t first = vld1q_u8(u), second = vld1q_u8(u + 16);
                        k_count_neon(a, b, p + j);
                    }
                    k_widen_neon(counts, a);
                    k_widen_neon(counts + 2, b);
                }
            }
    }
    k_negative_neon(counts, l->step, sums);
}
#endif

/* Sums by NEON. */
#if defined(K_ARM64)
static void k_signs_tile_neon(const k_signs *l, const uint8_t *w, int32_t far, int32_t blocks, const uint8_t *const at[8], int32_t one,
                              int32_t *sums)
{
    int32_t b, i;
    for (b = 0; b < blocks; b++)
        if (one)
            k_one_signs_neon(l, w + b * far, at[0], sums + 256 * b);
        else
            for (i = 0; i < 8; i += 4)
                k_four_signs_neon(l, w + b * far, at + i, sums + 256 * b + 32 * i);
}
#endif

/* Bytes that are all ones or none, as two bytes of bits: each keeps the bit that is its place, and three sums of pairs put eight together. */
#if defined(K_ARM64)
static void k_gather_neon(uint8x16_t is, uint8_t *to)
{
    static const uint8_t places[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8x16_t b = vandq_u8(is, vld1q_u8(places));
    b = vpaddq_u8(b, b);
    b = vpaddq_u8(b, b);
    b = vpaddq_u8(b, b);
    to[0] = vgetq_lane_u8(b, 0);
    to[1] = vgetq_lane_u8(b, 1);
}
#endif

/* Bits of sums by NEON. */
#if defined(K_ARM64)
static void k_bits_neon(const k_signs *l, const int32_t *sums, const int32_t *least, int32_t left, uint8_t *to)
{
    uint8_t bytes[4];
    int32_t i;
    (void)l;
    for (i = 0; i < 2; i++, sums += 16, least += 16) {
        const uint16x4_t a = vmovn_u32(vcgeq_s32(vld1q_s32(sums), vld1q_s32(least)));
        const uint16x4_t b = vmovn_u32(vcgeq_s32(vld1q_s32(sums + 4), vld1q_s32(least + 4)));
        const uint16x4_t c = vmovn_u32(vcgeq_s32(vld1q_s32(sums + 8), vld1q_s32(least + 8)));
        const uint16x4_t d = vmovn_u32(vcgeq_s32(vld1q_s32(sums + 12), vld1q_s32(least + 12)));
        k_gather_neon(vcombine_u8(vmovn_u16(vcombine_u16(a, b)), vmovn_u16(vcombine_u16(c, d))), bytes + 2 * i);
    }
    memcpy(to, bytes, left < 32 ? (size_t)((left + 7) / 8) : 4);
}
#endif

/* Bits by NEON: of sixteen codes at a time. */
#if defined(K_ARM64)
static void k_pack_neon(const k_signs *l, const int8_t *x, int32_t count, int32_t plane, uint8_t *to)
{
    const uint8x16_t bit = vdupq_n_u8((uint8_t)(1u << plane));
    const int8x16_t least = vdupq_n_s8((int8_t)l->low);
    int32_t i;
    for (i = 0; i + 16 <= count; i += 16, to += 2) {
        const int8x16_t v = vld1q_s8(x + i);
        k_gather_neon(l->planes == 1 ? vcgtq_s8(v, least) : vtstq_u8(vreinterpretq_u8_s8(vsubq_s8(v, least)), bit), to);
    }
    k_pack_plain(l, x + i, count - i, plane, to);
}
#endif

/* NEON, which every 64-bit ARM has. */
static k_signs_set k_signs_neon(void)
{
    k_signs_set set = k_signs_plain();
#if defined(K_ARM64)
    set.pack = k_pack_neon;
    set.tile = k_signs_tile_neon;
    set.bits = k_bits_neon;
#endif
    return set;
}
