/* Layers of floats on x86-64: AVX2 with FMA, and AVX-512. */

#include <immintrin.h>
#include <stdint.h>

/* Before functions that are compiled for AVX2 with FMA, and for AVX-512. */
#if defined(K_X86)
#define k_fma __attribute__((target("avx2,fma")))
#define k_avx512 __attribute__((target("avx512f")))
#endif

/* A pixel's input against sixteen channels in two registers, or against thirty-two; then their sums to memory. */
#if defined(K_X86)
#define k_input_fma(i) \
    x = _mm256_broadcast_ss(at[i] + k); \
    a##i = _mm256_fmadd_ps(x, u, a##i); \
    b##i = _mm256_fmadd_ps(x, v, b##i)
#define k_put_fma(i) \
    _mm256_storeu_ps(sums + far * (i), a##i); \
    _mm256_storeu_ps(sums + far * (i) + 8, b##i)
#define k_input_512(i) \
    x = _mm512_set1_ps(at[i][k]); \
    a##i = _mm512_fmadd_ps(x, u, a##i); \
    b##i = _mm512_fmadd_ps(x, v, b##i)
#define k_put_512(i) \
    _mm512_storeu_ps(sums + 32 * (i), a##i); \
    _mm512_storeu_ps(sums + 32 * (i) + 16, b##i)
#endif

/* Sums of six pixels and one panel. */
#if defined(K_X86)
static k_fma void k_six_fma(const float *const at[6], const float *w, int32_t inputs, int32_t far, float *sums)
{
    __m256 a0 = _mm256_setzero_ps(), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0, b4 = a0, b5 = a0;
    __m256 u, v, x;
    int32_t k;
    for (k = 0; k < inputs; k++, w += 16) {
        u = _mm256_loadu_ps(w);
        v = _mm256_loadu_ps(w + 8);
        k_input_fma(0);
        k_input_fma(1);
        k_input_fma(2);
        k_input_fma(3);
        k_input_fma(4);
        k_input_fma(5);
    }
    k_put_fma(0);
    k_put_fma(1);
    k_put_fma(2);
    k_put_fma(3);
    k_put_fma(4);
    k_put_fma(5);
}
#endif

/* Sums of one pixel and one panel, in four parts, as one sum would wait for itself. */
#if defined(K_X86)
static k_fma void k_lone_fma(const float *x, const float *w, int32_t inputs, float *sums)
{
    __m256 a0 = _mm256_setzero_ps(), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0, v;
    int32_t k;
    for (k = 0; k + 4 <= inputs; k += 4, w += 64) {
        v = _mm256_broadcast_ss(x + k);
        a0 = _mm256_fmadd_ps(v, _mm256_loadu_ps(w), a0);
        b0 = _mm256_fmadd_ps(v, _mm256_loadu_ps(w + 8), b0);
        v = _mm256_broadcast_ss(x + k + 1);
        a1 = _mm256_fmadd_ps(v, _mm256_loadu_ps(w + 16), a1);
        b1 = _mm256_fmadd_ps(v, _mm256_loadu_ps(w + 24), b1);
        v = _mm256_broadcast_ss(x + k + 2);
        a2 = _mm256_fmadd_ps(v, _mm256_loadu_ps(w + 32), a2);
        b2 = _mm256_fmadd_ps(v, _mm256_loadu_ps(w + 40), b2);
        v = _mm256_broadcast_ss(x + k + 3);
        a3 = _mm256_fmadd_ps(v, _mm256_loadu_ps(w + 48), a3);
        b3 = _mm256_fmadd_ps(v, _mm256_loadu_ps(w + 56), b3);
    }
    for (; k < inputs; k++, w += 16) {
        v = _mm256_broadcast_ss(x + k);
        a0 = _mm256_fmadd_ps(v, _mm256_loadu_ps(w), a0);
        b0 = _mm256_fmadd_ps(v, _mm256_loadu_ps(w + 8), b0);
    }
    _mm256_storeu_ps(sums, _mm256_add_ps(_mm256_add_ps(a0, a1), _mm256_add_ps(a2, a3)));
    _mm256_storeu_ps(sums + 8, _mm256_add_ps(_mm256_add_ps(b0, b1), _mm256_add_ps(b2, b3)));
}
#endif

/* Sums by AVX2 with FMA. */
#if defined(K_X86)
static k_fma void k_floats_tile_fma(const float *const at[6], const float *w, int32_t inputs, int32_t panels, int32_t one, float *sums)
{
    int32_t q;
    for (q = 0; q < panels; q++, w += inputs * 16)
        if (one)
            k_lone_fma(at[0], w, inputs, sums + 16 * q);
        else
            k_six_fma(at, w, inputs, 16 * panels, sums + 16 * q);
}
#endif

/* Sums of six pixels and two panels. */
#if defined(K_X86)
static k_avx512 void k_six_512(const float *const at[6], const float *w, int32_t inputs, float *sums)
{
    const float *more = w + inputs * 16;
    __m512 a0 = _mm512_setzero_ps(), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0, b4 = a0, b5 = a0;
    __m512 u, v, x;
    int32_t k;
    for (k = 0; k < inputs; k++, w += 16, more += 16) {
        u = _mm512_loadu_ps(w);
        v = _mm512_loadu_ps(more);
        k_input_512(0);
        k_input_512(1);
        k_input_512(2);
        k_input_512(3);
        k_input_512(4);
        k_input_512(5);
    }
    k_put_512(0);
    k_put_512(1);
    k_put_512(2);
    k_put_512(3);
    k_put_512(4);
    k_put_512(5);
}
#endif

/* A tap of sixteen channels. */
#if defined(K_X86)
#define k_tap_fma(i) \
    a = _mm256_fmadd_ps(_mm256_loadu_ps(pixel + (i) * step), _mm256_loadu_ps(tap + (i) * next), a); \
    b = _mm256_fmadd_ps(_mm256_loadu_ps(pixel + (i) * step + 8), _mm256_loadu_ps(tap + (i) * next + 8), b)
#endif

/* Depthwise sums by AVX2 with FMA. Three taps of a line, the usual number, are no loop: its end is guessed wrong too often. */
#if defined(K_X86)
static k_fma void k_floats_depth_fma(const float *x, const float *taps, const k_floats_window *seen, float *sums)
{
    const ptrdiff_t step = seen->step, next = seen->weight_step;
    __m256 a = _mm256_setzero_ps(), b = a;
    int32_t ry, rx;
    for (ry = 0; ry < seen->rows; ry++) {
        const float *pixel = x + ry * seen->line, *tap = taps + ry * seen->weight_line;
        for (rx = seen->columns; rx >= 3; rx -= 3, pixel += 3 * step, tap += 3 * next) {
            k_tap_fma(0);
            k_tap_fma(1);
            k_tap_fma(2);
        }
        for (; rx > 0; rx--, pixel += step, tap += next) {
            k_tap_fma(0);
        }
    }
    _mm256_storeu_ps(sums, a);
    _mm256_storeu_ps(sums + 8, b);
}
#endif

/* Results by AVX2: no branch depends on the data. Where a sum is no number, these give their second operand, which is the sum. */
#if defined(K_X86)
static k_fma void k_floats_end_fma(const float *sums, const k_finish *f, int32_t first, float *y)
{
    const __m256 low = _mm256_set1_ps(f->low), high = _mm256_set1_ps(f->high);
    __m256 a = _mm256_loadu_ps(sums), b = _mm256_loadu_ps(sums + 8);
    if (f->bias) {
        a = _mm256_add_ps(a, _mm256_loadu_ps(f->bias + first));
        b = _mm256_add_ps(b, _mm256_loadu_ps(f->bias + first + 8));
    }
    _mm256_storeu_ps(y, _mm256_min_ps(high, _mm256_max_ps(low, a)));
    _mm256_storeu_ps(y + 8, _mm256_min_ps(high, _mm256_max_ps(low, b)));
}
#endif

/* Sums by AVX-512, where there is enough for two panels: one pixel waits for its weights, and six sums would wait for themselves. */
#if defined(K_X86)
static void k_floats_tile_512(const float *const at[6], const float *w, int32_t inputs, int32_t panels, int32_t one, float *sums)
{
    if (one || panels == 1)
        k_floats_tile_fma(at, w, inputs, panels, one, sums);
    else
        k_six_512(at, w, inputs, sums);
}
#endif

/* The best set of this machine, up to AVX2. */
static k_floats k_floats_v3(void)
{
    k_floats set = k_floats_plain();
#if defined(K_X86)
    if (k_bears() & 1u) {
        set.tile = k_floats_tile_fma;
        set.depth = k_floats_depth_fma;
        set.end = k_floats_end_fma;
    }
#endif
    return set;
}

/* The best set of this machine, up to AVX-512. */
static k_floats k_floats_v4(void)
{
    k_floats set = k_floats_v3();
#if defined(K_X86)
    if (k_bears() & 2u)
        set.tile = k_floats_tile_512;
#endif
    return set;
}
