/* Panels on 64-bit ARM: NEON, and its dot products (SDOT) where the processor has them. Here bytes keep their sign. */

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

/* Before functions that are compiled for dot products. */
#if defined(K_ARM64)
#define k_dot __attribute__((target("+dotprod")))
#endif

/* Eight bytes that are a pixel's four, twice. */
#if defined(K_ARM64)
static int8x8_t k_twice_neon(const uint8_t *p)
{
    int32_t v;
    memcpy(&v, p, 4);
    return vreinterpret_s8_s32(vdup_n_s32(v));
}
#endif

/* A four of two channels, and the one behind it: two products of 16 bits fit in 16 bits, as no weight is −128.
 * Then one four of two pixels and a panel. */
#if defined(K_ARM64)
#define k_couple_neon(sum, x, next, w) sum = vpadalq_s16(sum, vmlal_s8(vmull_s8(vld1_s8(w), x), vld1_s8((w) + 64), next))
#define k_lone_neon(sum, x, w) sum = vpadalq_s16(sum, vmull_s8(vld1_s8(w), x))
#define k_step_neon(p, q, w) \
    x = k_twice_neon(p); \
    z = k_twice_neon(q); \
    for (k = 0; k < 8; k++) { \
        k_lone_neon(a[k], x, (w) + 8 * k); \
        k_lone_neon(b[k], z, (w) + 8 * k); \
    }
#endif

/* Both parts of sixteen sums, added. */
#if defined(K_ARM64)
static void k_joined_neon(int32_t *sums, const int32x4_t parts[8])
{
    int32_t k;
    for (k = 0; k < 4; k++)
        vst1q_s32(sums + 4 * k, vpaddq_s32(parts[2 * k], parts[2 * k + 1]));
}
#endif

/* Sums of two pixels and one panel. A register holds two channels, in two parts. */
#if defined(K_ARM64)
static void k_two_neon(const k_panels *l, const int8_t *w, const uint8_t *first, const uint8_t *second, int32_t *sums, int32_t next)
{
    int32x4_t a[8], b[8];
    int32_t ry, rx, j, k;
    for (k = 0; k < 8; k++)
        a[k] = b[k] = vdupq_n_s32(0);
    for (ry = 0; ry < l->runs_y; ry++)
        for (rx = 0; rx < l->runs_x; rx++) {
            const uint8_t *p = first + ry * l->run_y + rx * l->run_x, *q = second + ry * l->run_y + rx * l->run_x;
            for (j = 0; j + 1 < l->fours; j += 2, p += 8, q += 8, w += 128) {
                const int8x8_t x = k_twice_neon(p), more = k_twice_neon(p + 4), z = k_twice_neon(q), further = k_twice_neon(q + 4);
                for (k = 0; k < 8; k++) {
                    k_couple_neon(a[k], x, more, w + 8 * k);
                    k_couple_neon(b[k], z, further, w + 8 * k);
                }
            }
            if (j < l->fours) {
                int8x8_t x, z;
                k_step_neon(p, q, w);
                w += 64;
            }
        }
    k_joined_neon(sums, a);
    k_joined_neon(sums + next, b);
}
#endif

/* Sums by NEON. */
#if defined(K_ARM64)
static void k_tile_neon(const k_panels *l, const int8_t *w, int32_t far, int32_t panels, const uint8_t *const at[8], int32_t one,
                        int32_t *sums)
{
    int32_t i, q;
    for (q = 0; q < panels; q++)
        for (i = 0; i < (one ? 2 : 8); i += 2)
            k_two_neon(l, w + q * far, at[i], at[i + 1], sums + (i * panels + q) * 16, panels * 16);
}
#endif

/* Four fours, or one, of four pixels and one panel. */
#if defined(K_ARM64)
#define k_lane_dot(w, lane) \
    for (k = 0; k < 4; k++) { \
        const int8x16_t u = vld1q_s8((w) + 64 * (lane) + 16 * k); \
        a[k] = vdotq_laneq_s32(a[k], u, x0, lane); \
        b[k] = vdotq_laneq_s32(b[k], u, x1, lane); \
        c[k] = vdotq_laneq_s32(c[k], u, x2, lane); \
        d[k] = vdotq_laneq_s32(d[k], u, x3, lane); \
    }
#define k_keep_dot(sums, next) \
    for (k = 0; k < 4; k++) { \
        vst1q_s32((sums) + 4 * k, a[k]); \
        vst1q_s32((sums) + (next) + 4 * k, b[k]); \
        vst1q_s32((sums) + 2 * (next) + 4 * k, c[k]); \
        vst1q_s32((sums) + 3 * (next) + 4 * k, d[k]); \
    }
#define k_load_dot(p) vreinterpretq_s8_u8(vld1q_u8(p))
#define k_spread_dot(p) vcombine_s8(k_twice_neon(p), k_twice_neon(p))
#endif

/* Sums of four pixels and one panel. */
#if defined(K_ARM64)
static k_dot void k_four_dot(const k_panels *l, const int8_t *w, const uint8_t *const at[4], int32_t *sums, int32_t next)
{
    int32x4_t a[4], b[4], c[4], d[4];
    int32_t ry, rx, j, k;
    for (k = 0; k < 4; k++)
        a[k] = b[k] = c[k] = d[k] = vdupq_n_s32(0);
    for (ry = 0; ry < l->runs_y; ry++)
        for (rx = 0; rx < l->runs_x; rx++) {
            const int32_t run = ry * l->run_y + rx * l->run_x;
            for (j = 0; j + 3 < l->fours; j += 4, w += 256) {
                const int32_t place = run + 4 * j;
                const int8x16_t x0 = k_load_dot(at[0] + place), x1 = k_load_dot(at[1] + place);
                const int8x16_t x2 = k_load_dot(at[2] + place), x3 = k_load_dot(at[3] + place);
                k_lane_dot(w, 0);
                k_lane_dot(w, 1);
                k_lane_dot(w, 2);
                k_lane_dot(w, 3);
            }
            for (; j < l->fours; j++, w += 64) {
                const int32_t place = run + 4 * j;
                const int8x16_t x0 = k_spread_dot(at[0] + place), x1 = k_spread_dot(at[1] + place);
                const int8x16_t x2 = k_spread_dot(at[2] + place), x3 = k_spread_dot(at[3] + place);
                k_lane_dot(w, 0);
            }
        }
    k_keep_dot(sums, next);
}
#endif

/* Sums by dot products. */
#if defined(K_ARM64)
static k_dot void k_tile_dot(const k_panels *l, const int8_t *w, int32_t far, int32_t panels, const uint8_t *const at[8], int32_t one,
                             int32_t *sums)
{
    int32_t i, q;
    for (q = 0; q < panels; q++)
        for (i = 0; i < (one ? 4 : 8); i += 4)
            k_four_dot(l, w + q * far, at + i, sums + (i * panels + q) * 16, panels * 16);
}
#endif

/* Sums of listed fours by NEON: two pixels at a time. */
#if defined(K_ARM64)
static void k_listed_neon(const k_panels *l, const int32_t *list, int32_t fours, const int8_t *w, const uint8_t *const at[8],
                         int32_t *sums)
{
    int32_t i, j, k;
    (void)l;
    for (i = 0; i < 8; i += 2, sums += 32) {
        int32x4_t a[8], b[8];
        for (k = 0; k < 8; k++)
            a[k] = b[k] = vdupq_n_s32(0);
        for (j = 0; j < fours; j++) {
            int8x8_t x, z;
            k_step_neon(at[i] + list[j], at[i + 1] + list[j], w + 64 * j);
        }
        k_joined_neon(sums, a);
        k_joined_neon(sums + 16, b);
    }
}
#endif

/* Sums of listed fours by dot products: four pixels at a time. */
#if defined(K_ARM64)
static k_dot void k_listed_dot(const k_panels *l, const int32_t *list, int32_t fours, const int8_t *w, const uint8_t *const at[8],
                               int32_t *sums)
{
    int32_t i, j, k;
    (void)l;
    for (i = 0; i < 8; i += 4, sums += 64) {
        int32x4_t a[4], b[4], c[4], d[4];
        const int8_t *from = w;
        for (k = 0; k < 4; k++)
            a[k] = b[k] = c[k] = d[k] = vdupq_n_s32(0);
        for (j = 0; j < fours; j++, from += 64) {
            const int8x16_t x0 = k_spread_dot(at[i] + list[j]), x1 = k_spread_dot(at[i + 1] + list[j]);
            const int8x16_t x2 = k_spread_dot(at[i + 2] + list[j]), x3 = k_spread_dot(at[i + 3] + list[j]);
            k_lane_dot(from, 0);
        }
        k_keep_dot(sums, 16);
    }
}
#endif

/* Sums of a depthwise panel by NEON. */
#if defined(K_ARM64)
static void k_depth_neon(const k_panels *l, const int8_t *w, const uint8_t *const at[8], int32_t *sums)
{
    int32_t i, ry, rx;
    for (i = 0; i < 8; i++, sums += 16) {
        const int8_t *tap = w;
        int32x4_t a = vdupq_n_s32(0), b = a, c = a, d = a;
        for (ry = 0; ry < l->runs_y; ry++)
            for (rx = 0; rx < l->runs_x; rx++, tap += 16) {
                const int8x16_t x = vreinterpretq_s8_u8(vld1q_u8(at[i] + ry * l->run_y + rx * l->run_x)), u = vld1q_s8(tap);
                const int16x8_t first = vmull_s8(vget_low_s8(x), vget_low_s8(u)), second = vmull_s8(vget_high_s8(x), vget_high_s8(u));
                a = vaddw_s16(a, vget_low_s16(first));
                b = vaddw_s16(b, vget_high_s16(first));
                c = vaddw_s16(c, vget_low_s16(second));
                d = vaddw_s16(d, vget_high_s16(second));
            }
        vst1q_s32(sums, a);
        vst1q_s32(sums + 4, b);
        vst1q_s32(sums + 8, c);
        vst1q_s32(sums + 12, d);
    }
}
#endif

/* Four results in 16 bits; what lies beyond is saturated, and clamped later. `by`: shifts below zero, which go to the right. */
#if defined(K_ARM64)
static int16x4_t k_results_neon(int32x4_t sums, int32x4_t multiplier, const int64_t *bias, const int64_t *shift)
{
    const int64x2_t a = vaddq_s64(vmull_s32(vget_low_s32(sums), vget_low_s32(multiplier)), vld1q_s64(bias));
    const int64x2_t b = vaddq_s64(vmull_s32(vget_high_s32(sums), vget_high_s32(multiplier)), vld1q_s64(bias + 2));
    const int64x2_t u = vshlq_s64(a, vnegq_s64(vld1q_s64(shift))), v = vshlq_s64(b, vnegq_s64(vld1q_s64(shift + 2)));
    return vqmovn_s32(vcombine_s32(vqmovn_s64(u), vqmovn_s64(v)));
}
#endif

/* Codes by NEON. */
#if defined(K_ARM64)
static void k_store_neon(const int32_t *sums, int32_t count, int32_t panels, const k_panel_weight *w, int32_t panel, const int64_t *bias,
                         int8_t *y, int32_t o, int32_t left)
{
    const int8x8_t low = vdup_n_s8((int8_t)w->low), high = vdup_n_s8((int8_t)w->high);
    int32_t i, q;
    for (q = 0; q < panels; q++, bias += 16) {
        const int32_t most = left - 16 * q < 16 ? left - 16 * q : 16;
        const int32_t *m = w->multiplier + (panel + q) * 16;
        const int64_t *shift = w->shift + (panel + q) * 16;
        const int32x4x2_t multiplier = vld2q_s32(m), further = vld2q_s32(m + 8);
        for (i = 0; i < count; i++) {
            const int32x4x2_t s = vld2q_s32(sums + (i * panels + q) * 16), t = vld2q_s32(sums + (i * panels + q) * 16 + 8);
            const int16x4_t a = k_results_neon(s.val[0], multiplier.val[0], bias, shift);
            const int16x4_t b = k_results_neon(t.val[0], further.val[0], bias + 4, shift + 4);
            const int16x4_t c = k_results_neon(s.val[1], multiplier.val[1], bias + 8, shift + 8);
            const int16x4_t d = k_results_neon(t.val[1], further.val[1], bias + 12, shift + 12);
            int8_t kept[16];
            int8x8x2_t codes;
            codes.val[0] = vmax_s8(vmin_s8(vqmovn_s16(vcombine_s16(a, b)), high), low);
            codes.val[1] = vmax_s8(vmin_s8(vqmovn_s16(vcombine_s16(c, d)), high), low);
            vst2_s8(most == 16 ? y + i * o + q * 16 : kept, codes);
            if (most < 16)
                memcpy(y + i * o + q * 16, kept, (size_t)most);
        }
    }
}
#endif

/* Floats to codes by NEON: to even at a tie, and a NaN gives way to a number. */
#if defined(K_ARM64)
static void k_quantize_neon(const float *x, int8_t *y, int32_t count, float scale, int32_t zero, int32_t low, int32_t high)
{
    const float32x4_t by = vdupq_n_f32(scale), least = vdupq_n_f32((float)(low - zero)), most = vdupq_n_f32((float)(high - zero));
    int32_t i;
    for (i = 0; i + 8 <= count; i += 8) {
        const float32x4_t a = vminnmq_f32(vmaxnmq_f32(vdivq_f32(vld1q_f32(x + i), by), least), most);
        const float32x4_t b = vminnmq_f32(vmaxnmq_f32(vdivq_f32(vld1q_f32(x + i + 4), by), least), most);
        const int32x4_t u = vaddq_s32(vcvtnq_s32_f32(a), vdupq_n_s32(zero)), v = vaddq_s32(vcvtnq_s32_f32(b), vdupq_n_s32(zero));
        vst1_s8(y + i, vmovn_s16(vcombine_s16(vmovn_s32(u), vmovn_s32(v))));
    }
    k_quantize(x + i, y + i, count - i, scale, zero, low, high);
}
#endif

/* NEON, which every 64-bit ARM has. Sums of codes and tables are left to the compiler. */
static k_set k_set_neon(void)
{
    k_set set = {k_tile_plain, k_listed_plain, k_depth_plain, k_store_plain, k_add_plain, k_quantize, k_lookup_plain, k_copy_plain,
                 NULL,         NULL,           NULL};
#if defined(K_ARM64)
    set.tile = k_tile_neon;
    set.listed = k_listed_neon;
    set.depth = k_depth_neon;
    set.store = k_store_neon;
    set.quantize = k_quantize_neon;
#endif
    return set;
}

/* The same, with dot products where the system says that there are some. */
static k_set k_set_dot(void)
{
    k_set set = k_set_neon();
#if defined(K_ARM64) && defined(__linux__)
    if (getauxval(AT_HWCAP) & (1ul << 20)) { /* HWCAP_ASIMDDP */
        set.tile = k_tile_dot;
        set.listed = k_listed_dot;
    }
#elif defined(K_ARM64) && defined(__ARM_FEATURE_DOTPROD)
    set.tile = k_tile_dot;
    set.listed = k_listed_dot;
#endif
    return set;
}
