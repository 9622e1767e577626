/* Weights of few bits on 64-bit ARM: NEON, and its dot products (SDOT) where the processor has them. */

#include <arm_neon.h>
#include <stdint.h>

/* Sixteen of a four's bytes, the part k: of 1 … 4 bits. */
#if defined(K_ARM64)
#define k_part1_neon(p, k) vreinterpretq_s8_u8(vbslq_u8(k_ones_neon(p, k), most, least))
#define k_part2_neon(p, k) vqtbl1q_s8(table, k_lower_neon(p, 2, k))
#define k_part3_neon(p, k) \
    vqtbl1q_s8(table, vorrq_u8(k_lower_neon(p, 2, k), vandq_u8(k_ones_neon((p) + 16, k), vdupq_n_u8(4))))
#define k_part4_neon(p, k) vqtbl1q_s8(table, k_lower_neon((p) + (k) % 2 * 16, 4, (k) / 2))
#define k_ones_neon(p, k) vtstq_u8(vcombine_u8(vdup_n_u8((p)[2 * (k)]), vdup_n_u8((p)[2 * (k) + 1])), each)
#define k_lower_neon(p, bits, k) vandq_u8(vshlq_u8(vld1q_u8(p), vdupq_n_s8((int8_t)(-(bits) * (k)))), low)
#define k_table_neon(f) \
    const int8x16_t table = vld1q_s8((f)->values); \
    const uint8x16_t low = vdupq_n_u8((f)->bits == 4 ? 15 : 3), each = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201u)); \
    const uint8x16_t least = vdupq_n_u8((uint8_t)(f)->values[0]), most = vdupq_n_u8((uint8_t)(f)->values[1])
#endif

/* Bytes of some fours by NEON. */
#if defined(K_ARM64)
#define k_all_fours_neon(part, size) \
    for (j = 0; j < fours; j++, codes += (size), bytes += 64) \
        for (k = 0; k < 4; k++) \
            vst1q_s8(bytes + 16 * k, part(codes, k))
static void k_open_neon(const k_few *f, const uint8_t *codes, int32_t fours, int8_t *bytes)
{
    k_table_neon(f);
    int32_t j, k;
    if (f->bits == 1) {
        k_all_fours_neon(k_part1_neon, 8);
    } else if (f->bits == 2) {
        k_all_fours_neon(k_part2_neon, 16);
    } else if (f->bits == 3) {
        k_all_fours_neon(k_part3_neon, 24);
    } else {
        k_all_fours_neon(k_part4_neon, 32);
    }
}
#endif

/* Sums of one pixel and one panel by NEON: a register holds two channels, in two parts. */
#if defined(K_ARM64)
#define k_run_neon(part, size) \
    for (j = 0; j < l->fours; j++, p += 4, codes += (size)) { \
        const int8x8_t x = k_twice_neon(p); \
        for (k = 0; k < 4; k++) { \
            const int8x16_t u = part(codes, k); \
            a[2 * k] = vpadalq_s16(a[2 * k], vmull_s8(vget_low_s8(u), x)); \
            a[2 * k + 1] = vpadalq_s16(a[2 * k + 1], vmull_s8(vget_high_s8(u), x)); \
        } \
    }
static void k_few_one_neon(const k_panels *l, const k_few *f, const uint8_t *codes, const uint8_t *at, int32_t *sums)
{
    k_table_neon(f);
    int32x4_t a[8];
    int32_t ry, rx, j, k;
    for (k = 0; k < 8; k++)
        a[k] = vdupq_n_s32(0);
    for (ry = 0; ry < l->runs_y; ry++)
        for (rx = 0; rx < l->runs_x; rx++) {
            const uint8_t *p = at + ry * l->run_y + rx * l->run_x;
            if (f->bits == 1) {
                k_run_neon(k_part1_neon, 8)
            } else if (f->bits == 2) {
                k_run_neon(k_part2_neon, 16)
            } else if (f->bits == 3) {
                k_run_neon(k_part3_neon, 24)
            } else {
                k_run_neon(k_part4_neon, 32)
            }
        }
    k_joined_neon(sums, a);
}
#endif

/* The same by dot products: a register holds four channels. */
#if defined(K_ARM64)
#define k_run_dot(part, size) \
    for (j = 0; j < l->fours; j++, p += 4, codes += (size)) { \
        const int8x16_t x = k_spread_dot(p); \
        for (k = 0; k < 4; k++) \
            a[k] = vdotq_s32(a[k], part(codes, k), x); \
    }
static k_dot void k_few_one_dot(const k_panels *l, const k_few *f, const uint8_t *codes, const uint8_t *at, int32_t *sums)
{
    k_table_neon(f);
    int32x4_t a[4];
    int32_t ry, rx, j, k;
    for (k = 0; k < 4; k++)
        a[k] = vdupq_n_s32(0);
    for (ry = 0; ry < l->runs_y; ry++)
        for (rx = 0; rx < l->runs_x; rx++) {
            const uint8_t *p = at + ry * l->run_y + rx * l->run_x;
            if (f->bits == 1) {
                k_run_dot(k_part1_neon, 8)
            } else if (f->bits == 2) {
                k_run_dot(k_part2_neon, 16)
            } else if (f->bits == 3) {
                k_run_dot(k_part3_neon, 24)
            } else {
                k_run_dot(k_part4_neon, 32)
            }
        }
    for (k = 0; k < 4; k++)
        vst1q_s32(sums + 4 * k, a[k]);
}
#endif

/* NEON, which every 64-bit ARM has. */
static k_few_set k_few_neon(void)
{
    k_few_set set = {k_open_plain, k_few_one_plain, NULL};
#if defined(K_ARM64)
    set.open = k_open_neon;
    set.one = k_few_one_neon;
#endif
    return set;
}

/* The same, with dot products where the system says that there are some. */
static k_few_set k_few_dot(void)
{
    k_few_set set = k_few_neon();
#if defined(K_ARM64) && defined(__linux__)
    if (getauxval(AT_HWCAP) & (1ul << 20)) /* HWCAP_ASIMDDP */
        set.one = k_few_one_dot;
#elif defined(K_ARM64) && defined(__ARM_FEATURE_DOTPROD)
    set.one = k_few_one_dot;
#endif
    return set;
}
