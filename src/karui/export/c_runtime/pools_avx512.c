/* Pools of codes on x86-64: AVX-512, channels side by side, each window in a register. */

#include <immintrin.h>
#include <stdint.h>

/* The window of an output pixel: from where it begins in the image, its rows and its pixels of a row. */
#if defined(K_X86)
typedef struct {
    const int8_t *from;
    int32_t rows, wide;
} k_window;
#endif

/* The window of pixel (oy, ox), without what lies in the border. */
#if defined(K_X86)
static k_window k_window_of(const int8_t *x, const k_layer *l, int32_t oy, int32_t ox)
{
    const int32_t top = oy * l->sy - l->top, left = ox * l->sx - l->left;
    k_window found;
    int32_t y0, y1, x0, x1;
    k_taps(top, 1, l->kh, l->h, &y0, &y1);
    k_taps(left, 1, l->kw, l->w, &x0, &x1);
    found.from = x + ((top + y0) * l->w + left + x0) * l->c;
    found.rows = y1 - y0;
    found.wide = x1 - x0;
    return found;
}
#endif

/* The greatest codes, sixty-four channels at a time. */
#if defined(K_X86)
static k_vnni void k_max_pool_avx512(const int8_t *x, int8_t *y, const k_layer *l)
{
    const int32_t channels = l->c, line = l->w * l->c;
    int32_t oy, ox, i, j, c;
    for (oy = 0; oy < l->oh; oy++)
        for (ox = 0; ox < l->ow; ox++, y += channels) {
            const k_window at = k_window_of(x, l, oy, ox);
            for (c = 0; c < channels; c += 64) {
                const __mmask64 mask = channels - c < 64 ? ((__mmask64)1 << (channels - c)) - 1u : ~(__mmask64)0;
                __m512i most = _mm512_set1_epi8(-128);
                for (i = 0; i < at.rows; i++)
                    for (j = 0; j < at.wide; j++)
                        most = _mm512_max_epi8(most, _mm512_maskz_loadu_epi8(mask, (const void *)(at.from + i * line + j * channels + c)));
                _mm512_mask_storeu_epi8((void *)(y + c), mask, most);
            }
        }
}
#endif

/* The means, sixteen channels at a time. */
#if defined(K_X86)
static k_vnni void k_avg_pool_avx512(const int8_t *x, int8_t *y, const k_layer *l, const k_requant *q, int32_t counted)
{
    const int32_t channels = l->c, line = l->w * l->c;
    const __m128i low = _mm_set1_epi8((char)q->low), high = _mm_set1_epi8((char)q->high);
    int32_t oy, ox, i, j, c;
    for (oy = 0; oy < l->oh; oy++)
        for (ox = 0; ox < l->ow; ox++, y += channels) {
            const k_window at = k_window_of(x, l, oy, ox);
            const int32_t count = at.rows * at.wide, entry = counted ? count - 1 : 0;
            const __m512i none = _mm512_set1_epi32(-count * q->zero), by = _mm512_set1_epi32(q->multiplier[entry]);
            const __m512i bias = _mm512_set1_epi64(q->bias[entry]);
            const __m128i shift = _mm_cvtsi32_si128(q->shift[entry]);
            for (c = 0; c < channels; c += 16) {
                const __mmask16 mask = (__mmask16)(channels - c < 16 ? (1u << (channels - c)) - 1u : 0xffffu);
                __m512i sum = none, even, odd;
                __m128i codes;
                for (i = 0; i < at.rows; i++)
                    for (j = 0; j < at.wide; j++) {
                        const int8_t *from = at.from + i * line + j * channels + c;
                        sum = _mm512_add_epi32(sum, _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, (const void *)from)));
                    }
                even = _mm512_sra_epi64(_mm512_add_epi64(_mm512_mul_epi32(sum, by), bias), shift);
                odd = _mm512_sra_epi64(_mm512_add_epi64(_mm512_mul_epi32(_mm512_srli_epi64(sum, 32), by), bias), shift);
                codes = _mm_unpacklo_epi8(_mm512_cvtsepi64_epi8(even), _mm512_cvtsepi64_epi8(odd));
                _mm_mask_storeu_epi8((void *)(y + c), mask, _mm_max_epi8(_mm_min_epi8(codes, high), low));
            }
        }
}
#endif

/* The greatest code under each window, by the best that the processor has. */
static k_once void k_max_pool_i8_v4(const int8_t *restrict x, int8_t *restrict y, const k_layer *l)
{
#if defined(K_X86)
    if (k_bears() & 2u) {
        k_max_pool_avx512(x, y, l);
        return;
    }
#endif
    k_max_pool_i8(x, y, l);
}

/* The mean under each window. */
static k_once void k_avg_pool_i8_v4(const int8_t *restrict x, int8_t *restrict y, const k_layer *l, const k_requant *q, int32_t counted,
                                    int32_t *restrict sums)
{
#if defined(K_X86)
    if (k_bears() & 2u) {
        k_avg_pool_avx512(x, y, l, q, counted);
        return;
    }
#endif
    k_avg_pool_i8(x, y, l, q, counted, sums);
}
