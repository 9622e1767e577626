/* Depthwise layers on x86-64: AVX2; and what all files for AVX2 share. */

#include <immintrin.h>
#include <stdint.h>

/* Before functions that are compiled for AVX2. */
#if defined(K_X86)
#define k_avx2 __attribute__((target("avx2")))
#endif

/* Sixteen bytes to a register. */
#if defined(K_X86)
#define k_sixteen(p) _mm_loadu_si128((const __m128i *)(const void *)(p))
#endif

/* Two taps of sixteen channels side by side: of a pixel, and what they meet. */
#if defined(K_X86)
#define k_taps_avx2(i) \
    s = k_sixteen(from[i] + run); \
    t = k_sixteen(from[i] + next); \
    a##i = _mm256_add_epi32(a##i, _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm_unpacklo_epi8(s, t)), u)); \
    b##i = _mm256_add_epi32(b##i, _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm_unpackhi_epi8(s, t)), v))
#define k_both_avx2(i, a, b) \
    _mm256_storeu_si256((__m256i *)(void *)(sums + 16 * (i)), a); \
    _mm256_storeu_si256((__m256i *)(void *)(sums + 16 * (i) + 8), b)
#endif

/* Where the tap after this one lies. */
#if defined(K_X86)
static int32_t k_after(const k_panels *l, int32_t *ry, int32_t *rx)
{
    if (++*rx == l->runs_x) {
        *rx = 0;
        ++*ry;
    }
    return *ry * l->run_y + *rx * l->run_x;
}
#endif

/* Sums of a depthwise panel by AVX2: four pixels and two taps at a time; the last tap of an odd number meets nothing. */
#if defined(K_X86)
static k_avx2 void k_depth_avx2(const k_panels *l, const int8_t *w, const uint8_t *const at[8], int32_t *sums)
{
    const int32_t taps = l->runs_y * l->runs_x;
    const uint8_t *const *from = at;
    int32_t k, h;
    for (h = 0; h < 2; h++, from += 4, sums += 64) {
        __m256i a0 = _mm256_setzero_si256(), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0, u, v;
        int32_t ry = 0, rx = 0, run = 0, next;
        for (k = 0; k < taps; k += 2) {
            const __m128i c = k_sixteen(w + 16 * k), d = k + 1 < taps ? k_sixteen(w + 16 * k + 16) : _mm_setzero_si128();
            __m128i s, t;
            u = _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(c, d));
            v = _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(c, d));
            next = k + 1 < taps ? k_after(l, &ry, &rx) : run;
            k_taps_avx2(0);
            k_taps_avx2(1);
            k_taps_avx2(2);
            k_taps_avx2(3);
            run = k_after(l, &ry, &rx);
        }
        k_both_avx2(0, a0, b0);
        k_both_avx2(1, a1, b1);
        k_both_avx2(2, a2, b2);
        k_both_avx2(3, a3, b3);
    }
}
#endif
