/* Layers of floats on 64-bit ARM: NEON. */

#include <arm_neon.h>
#include <stdint.h>

/* Sums of six pixels and one panel: 24 registers. */
#if defined(K_ARM64)
static void k_six_neon(const float *const at[6], const float *w, int32_t inputs, int32_t far, float *sums)
{
    float32x4_t a[6][4];
    int32_t k, i, j;
    for (i = 0; i < 6; i++)
        for (j = 0; j < 4; j++)
            a[i][j] = vdupq_n_f32(0.0f);
    for (k = 0; k < inputs; k++, w += 16) {
        const float32x4_t w0 = vld1q_f32(w), w1 = vld1q_f32(w + 4), w2 = vld1q_f32(w + 8), w3 = vld1q_f32(w + 12);
        for (i = 0; i < 6; i++) {
            const float32x4_t x = vld1q_dup_f32(at[i] + k);
            a[i][0] = vfmaq_f32(a[i][0], x, w0);
            a[i][1] = vfmaq_f32(a[i][1], x, w1);
            a[i][2] = vfmaq_f32(a[i][2], x, w2);
            a[i][3] = vfmaq_f32(a[i][3], x, w3);
        }
    }
    for (i = 0; i < 6; i++)
        for (j = 0; j < 4; j++)
            vst1q_f32(sums + far * i + 4 * j, a[i][j]);
}
#endif

/* Sums of one pixel and one panel, in two parts. */
#if defined(K_ARM64)
static void k_lone_neon_f32(const float *x, const float *w, int32_t inputs, float *sums)
{
    float32x4_t a[2][4];
    int32_t k, j;
    for (j = 0; j < 4; j++)
        a[0][j] = a[1][j] = vdupq_n_f32(0.0f);
    for (k = 0; k + 2 <= inputs; k += 2, w += 32)
        for (j = 0; j < 4; j++) {
            a[0][j] = vfmaq_n_f32(a[0][j], vld1q_f32(w + 4 * j), x[k]);
            a[1][j] = vfmaq_n_f32(a[1][j], vld1q_f32(w + 16 + 4 * j), x[k + 1]);
        }
    for (j = 0; j < 4; j++) {
        if (k < inputs)
            a[0][j] = vfmaq_n_f32(a[0][j], vld1q_f32(w + 4 * j), x[k]);
        vst1q_f32(sums + 4 * j, vaddq_f32(a[0][j], a[1][j]));
    }
}
#endif

/* Sums by NEON. */
#if defined(K_ARM64)
static void k_floats_tile_neon(const float *const at[6], const float *w, int32_t inputs, int32_t panels, int32_t one, float *sums)
{
    int32_t q;
    for (q = 0; q < panels; q++, w += inputs * 16)
        if (one)
            k_lone_neon_f32(at[0], w, inputs, sums + 16 * q);
        else
            k_six_neon(at, w, inputs, 16 * panels, sums + 16 * q);
}
#endif

/* Results by NEON, whose maximum and minimum keep what is no number. */
#if defined(K_ARM64)
static void k_floats_end_neon(const float *sums, const k_finish *f, int32_t first, float *y)
{
    int32_t j;
    for (j = 0; j < 16; j += 4) {
        const float32x4_t v = vld1q_f32(sums + j), sum = f->bias ? vaddq_f32(v, vld1q_f32(f->bias + first + j)) : v;
        vst1q_f32(y + j, vminq_f32(vmaxq_f32(sum, vdupq_n_f32(f->low)), vdupq_n_f32(f->high)));
    }
}
#endif

/* The set of 64-bit ARM. */
static k_floats k_floats_neon(void)
{
    k_floats set = k_floats_plain(); /* whose depthwise sums a compiler makes vectors of by itself */
#if defined(K_ARM64)
    set.tile = k_floats_tile_neon;
    set.end = k_floats_end_neon;
#endif
    return set;
}
