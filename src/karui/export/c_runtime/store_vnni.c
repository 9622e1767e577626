/* Sums to codes on x86-64 with AVX-512: in floats where the exporter proved that they make the same integers, else in 64 bits. */

#include <immintrin.h>
#include <stdint.h>

/* Before functions that are compiled for AVX-512 with VNNI. */
#if defined(K_X86)
#define k_vnni __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#endif

/* Results of sixteen channels by floats, from sums that began with `start`. Why that is exact is told in c_requant.py. */
#if defined(K_X86)
#define k_floor_vnni (_MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)
#define k_near_vnni (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define k_real_vnni(a) _mm512_cvt_roundepi32_ps(a, k_near_vnni)
#define k_inner_vnni(a, lower, rest) _mm512_fmadd_round_ps(k_real_vnni(a), lower, rest, k_near_vnni)
#define k_whole_vnni(a, upper, lower, rest) \
    _mm512_cvt_roundps_epi32(_mm512_fmadd_round_ps(k_real_vnni(a), upper, k_inner_vnni(a, lower, rest), k_floor_vnni), k_floor_vnni)
#define k_each_vnni(a) k_whole_vnni(a, upper, lower, rest)
#endif

/* Codes of four pixels from their sums. */
#if defined(K_X86)
static k_vnni inline __m512i k_rounded_vnni(__m512i a, __m512i b, __m512i c, __m512i d, const float *reals, __m512i low, __m512i high)
{
    const __m512 upper = _mm512_loadu_ps(reals), lower = _mm512_loadu_ps(reals + 16), rest = _mm512_loadu_ps(reals + 32);
    const __m512i turned = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i s = _mm512_packs_epi32(k_each_vnni(a), k_each_vnni(b)), t = _mm512_packs_epi32(k_each_vnni(c), k_each_vnni(d));
    return _mm512_permutexvar_epi32(turned, _mm512_max_epi8(_mm512_min_epi8(_mm512_packs_epi16(s, t), high), low));
}
#endif

/* What the sums of a panel begin with. */
#if defined(K_X86)
#define k_start_vnni(w, panel) ((w)->start ? _mm512_loadu_si512((const void *)((w)->start + (panel) * 16)) : _mm512_setzero_si512())
#endif

/* Codes of up to four pixels to memory, `o` bytes from one to the next; `left`: channels to come. */
#if defined(K_X86)
static k_vnni inline void k_give_vnni(int8_t *y, ptrdiff_t o, __m512i d, int32_t count, int32_t left)
{
    const __m128i d0 = _mm512_castsi512_si128(d), d1 = _mm512_extracti32x4_epi32(d, 1), d2 = _mm512_extracti32x4_epi32(d, 2);
    const __m128i d3 = _mm512_extracti32x4_epi32(d, 3);
    const __mmask16 mask = (__mmask16)(left < 16 ? (1u << left) - 1u : 0xffffu);
    if (count >= 4 && left >= 16) {
        _mm_storeu_si128((__m128i *)(void *)y, d0);
        _mm_storeu_si128((__m128i *)(void *)(y + o), d1);
        _mm_storeu_si128((__m128i *)(void *)(y + 2 * o), d2);
        _mm_storeu_si128((__m128i *)(void *)(y + 3 * o), d3);
        return;
    }
    if (count > 0)
        _mm_mask_storeu_epi8((void *)y, mask, d0);
    if (count > 1)
        _mm_mask_storeu_epi8((void *)(y + o), mask, d1);
    if (count > 2)
        _mm_mask_storeu_epi8((void *)(y + 2 * o), mask, d2);
    if (count > 3)
        _mm_mask_storeu_epi8((void *)(y + 3 * o), mask, d3);
}
#endif

/* Codes of one panel by floats, from sums in memory. */
#if defined(K_X86)
#define k_begun_vnni(i) \
    _mm512_add_epi32(start, _mm512_loadu_si512((const void *)(sums + ((i) < count ? (i) : count - 1) * far)))
static k_vnni void k_store_reals_vnni(const int32_t *sums, int32_t far, int32_t count, const k_panel_weight *w, int32_t panel, int8_t *y,
                                 ptrdiff_t o, int32_t left)
{
    const __m512i low = _mm512_set1_epi8((char)w->low), high = _mm512_set1_epi8((char)w->high);
    const __m512i start = _mm512_loadu_si512((const void *)(w->start + panel * 16));
    for (; count > 0; count -= 4, sums += 4 * far, y += 4 * o) {
        const __m512i a = k_begun_vnni(0), b = k_begun_vnni(1), c = k_begun_vnni(2), d = k_begun_vnni(3);
        k_give_vnni(y, o, k_rounded_vnni(a, b, c, d, w->reals + panel * 48, low, high), count, left);
    }
}
#endif

/* Results of sixteen channels, each in 32 bits: shifts are 32 or more, so those of the odd channels come to lie in the upper halves. */
#if defined(K_X86)
#define k_quick_vnni(i) \
    _mm512_mask_mov_epi32( \
        _mm512_srav_epi64(_mm512_add_epi64(_mm512_mul_epi32(k_sums_vnni(i), m), even), by), 0xaaaa, \
        _mm512_srav_epi64(_mm512_add_epi64(_mm512_mul_epi32(_mm512_shuffle_epi32(k_sums_vnni(i), 0xf5), n), odd), less))
#define k_sums_vnni(i) _mm512_loadu_si512((const void *)(sums + (i) * far))
#endif

/* Codes of one panel by AVX-512, where that is allowed: four pixels at a time. */
#if defined(K_X86)
static k_vnni void k_four_vnni(const int32_t *sums, int32_t far, int32_t count, const k_panel_weight *w, int32_t at, const int64_t *bias,
                               int8_t *y, int32_t o, __mmask16 mask)
{
    const __m512i low = _mm512_set1_epi8((char)w->low), high = _mm512_set1_epi8((char)w->high);
    const __m512i m = _mm512_loadu_si512((const void *)(w->multiplier + at)), n = _mm512_srli_epi64(m, 32);
    const __m512i even = _mm512_loadu_si512((const void *)bias), odd = _mm512_loadu_si512((const void *)(bias + 8));
    const __m512i by = _mm512_loadu_si512((const void *)(w->shift + at));
    const __m512i less = _mm512_sub_epi64(_mm512_loadu_si512((const void *)(w->shift + at + 8)), _mm512_set1_epi64(32));
    const __m512i turned = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    int32_t i;
    for (i = 0; i + 4 <= count; i += 4, sums += 4 * far, y += 4 * o) {
        const __m512i a = _mm512_packs_epi32(k_quick_vnni(0), k_quick_vnni(1)), b = _mm512_packs_epi32(k_quick_vnni(2), k_quick_vnni(3));
        const __m512i c = _mm512_max_epi8(_mm512_min_epi8(_mm512_packs_epi16(a, b), high), low), d = _mm512_permutexvar_epi32(turned, c);
        _mm_mask_storeu_epi8((void *)y, mask, _mm512_castsi512_si128(d));
        _mm_mask_storeu_epi8((void *)(y + o), mask, _mm512_extracti32x4_epi32(d, 1));
        _mm_mask_storeu_epi8((void *)(y + 2 * o), mask, _mm512_extracti32x4_epi32(d, 2));
        _mm_mask_storeu_epi8((void *)(y + 3 * o), mask, _mm512_extracti32x4_epi32(d, 3));
    }
    for (; i < count; i++, sums += far, y += o) {
        const __m512i a = _mm512_packs_epi32(k_quick_vnni(0), k_quick_vnni(0)), b = _mm512_packs_epi16(a, a);
        const __m512i c = _mm512_permutexvar_epi32(turned, _mm512_max_epi8(_mm512_min_epi8(b, high), low));
        _mm_mask_storeu_epi8((void *)y, mask, _mm512_castsi512_si128(c));
    }
}
#endif

/* Codes by AVX-512. */
#if defined(K_X86)
static k_vnni void k_store_vnni(const int32_t *sums, int32_t count, int32_t panels, const k_panel_weight *w, int32_t panel,
                                const int64_t *bias, int8_t *y, int32_t o, int32_t left)
{
    const __m128i low = _mm_set1_epi8((char)w->low), high = _mm_set1_epi8((char)w->high);
    int32_t i, q;
    for (q = 0; q < panels; q++, bias += 16) {
        const int32_t at = (panel + q) * 16, most = left - 16 * q < 16 ? left - 16 * q : 16;
        const __mmask16 mask = (__mmask16)((1u << most) - 1u);
        const __m512i m = _mm512_loadu_si512((const void *)(w->multiplier + at)), n = _mm512_srli_epi64(m, 32);
        const __m512i by = _mm512_loadu_si512((const void *)(w->shift + at)), less = _mm512_loadu_si512((const void *)(w->shift + at + 8));
        for (i = 0; i < count && !w->quick && !w->reals; i++) {
            const __m512i s = _mm512_loadu_si512((const void *)(sums + (i * panels + q) * 16));
            const __m512i u = _mm512_add_epi64(_mm512_mul_epi32(s, m), _mm512_loadu_si512((const void *)bias));
            const __m512i t = _mm512_mul_epi32(_mm512_srli_epi64(s, 32), n), v = _mm512_add_epi64(t, _mm512_loadu_si512((const void *)(bias + 8)));
            const __m128i even = _mm512_cvtsepi64_epi8(_mm512_srav_epi64(u, by)), odd = _mm512_cvtsepi64_epi8(_mm512_srav_epi64(v, less));
            const __m128i bytes = _mm_max_epi8(_mm_min_epi8(_mm_unpacklo_epi8(even, odd), high), low);
            _mm_mask_storeu_epi8((void *)(y + i * o + q * 16), mask, bytes);
        }
        if (w->reals)
            k_store_reals_vnni(sums + q * 16, panels * 16, count, w, panel + q, y + q * 16, o, left - 16 * q);
        else if (w->quick)
            k_four_vnni(sums + q * 16, panels * 16, count, w, at, bias, y + q * 16, o, mask);
    }
}
#endif
