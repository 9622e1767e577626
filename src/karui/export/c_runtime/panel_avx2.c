/* Panels on x86-64: AVX2. Each function is compiled for its own instructions, whatever the compiler was told of the machine; which one runs
 * is chosen there. */

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* Before functions that are compiled for AVX2. */
#if defined(K_X86)
#define k_avx2 __attribute__((target("avx2")))
#endif

/* Four bytes as they lie. */
#if defined(K_X86)
static int32_t k_four(const uint8_t *p)
{
    int32_t v;
    memcpy(&v, p, 4);
    return v;
}
#endif

/* One four of a pixel against four channels' weights: products of 16 bits, added in pairs. Then fours of two pixels against a panel's. */
#if defined(K_X86)
#define k_pairs_avx2(sum, x, w) \
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(x, _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(w)))))
#define k_step_avx2(p, q, w) \
    x = _mm256_cvtepu8_epi16(_mm_set1_epi32(k_four(p))); \
    z = _mm256_cvtepu8_epi16(_mm_set1_epi32(k_four(q))); \
    k_pairs_avx2(a0, x, w); \
    k_pairs_avx2(b0, z, w); \
    k_pairs_avx2(a1, x, (w) + 16); \
    k_pairs_avx2(b1, z, (w) + 16); \
    k_pairs_avx2(a2, x, (w) + 32); \
    k_pairs_avx2(b2, z, (w) + 32); \
    k_pairs_avx2(a3, x, (w) + 48); \
    k_pairs_avx2(b3, z, (w) + 48)
#endif

/* Both parts of sixteen sums, added, in the order of the channels. */
#if defined(K_X86)
static k_avx2 void k_joined_avx2(int32_t *sums, __m256i a, __m256i b, __m256i c, __m256i d)
{
    _mm256_storeu_si256((__m256i *)(void *)sums, _mm256_permute4x64_epi64(_mm256_hadd_epi32(a, b), 0xd8));
    _mm256_storeu_si256((__m256i *)(void *)(sums + 8), _mm256_permute4x64_epi64(_mm256_hadd_epi32(c, d), 0xd8));
}
#endif

/* Sums of two pixels and one panel; each register holds four channels, in two parts. */
#if defined(K_X86)
static k_avx2 void k_two_avx2(const k_panels *l, const int8_t *w, const uint8_t *first, const uint8_t *second, int32_t *sums, int32_t next)
{
    __m256i a0 = _mm256_setzero_si256(), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0, x, z;
    int32_t ry, rx, j;
    for (ry = 0; ry < l->runs_y; ry++)
        for (rx = 0; rx < l->runs_x; rx++) {
            const uint8_t *p = first + ry * l->run_y + rx * l->run_x, *q = second + ry * l->run_y + rx * l->run_x;
            for (j = 0; j < l->fours; j++, p += 4, q += 4, w += 64) {
                k_step_avx2(p, q, w);
            }
        }
    k_joined_avx2(sums, a0, a1, a2, a3);
    k_joined_avx2(sums + next, b0, b1, b2, b3);
}
#endif

/* Sums by AVX2. */
#if defined(K_X86)
static k_avx2 void k_tile_avx2(const k_panels *l, const int8_t *w, int32_t far, int32_t panels, const uint8_t *const at[8], int32_t one,
                               int32_t *sums)
{
    int32_t i, q;
    for (q = 0; q < panels; q++)
        for (i = 0; i < (one ? 2 : 8); i += 2)
            k_two_avx2(l, w + q * far, at[i], at[i + 1], sums + (i * panels + q) * 16, panels * 16);
}
#endif

/* Sums of listed fours by AVX2: two pixels at a time. */
#if defined(K_X86)
static k_avx2 void k_listed_avx2(const k_panels *l, const int32_t *list, int32_t fours, const int8_t *w, const uint8_t *const at[8],
                                 int32_t *sums)
{
    int32_t i, j;
    (void)l;
    for (i = 0; i < 8; i += 2, sums += 32) {
        __m256i a0 = _mm256_setzero_si256(), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0, x, z;
        for (j = 0; j < fours; j++) {
            k_step_avx2(at[i] + list[j], at[i + 1] + list[j], w + 64 * j);
        }
        k_joined_avx2(sums, a0, a1, a2, a3);
        k_joined_avx2(sums + 16, b0, b1, b2, b3);
    }
}
#endif

/* Sums of a depthwise panel by AVX2: bytes as 32 bits, of which the lower 16 meet the weights' lower 16. */
#if defined(K_X86)
static k_avx2 void k_depth_avx2(const k_panels *l, const int8_t *w, const uint8_t *const at[8], int32_t *sums)
{
    int32_t i, h, ry, rx;
    for (i = 0; i < 8; i++)
        for (h = 0; h < 16; h += 8, sums += 8) {
            const int8_t *tap = w + h;
            __m256i a = _mm256_setzero_si256();
            for (ry = 0; ry < l->runs_y; ry++)
                for (rx = 0; rx < l->runs_x; rx++, tap += 16) {
                    const void *from = at[i] + ry * l->run_y + rx * l->run_x + h, *by = tap;
                    const __m256i x = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from));
                    a = _mm256_add_epi32(a, _mm256_madd_epi16(x, _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)by))));
                }
            _mm256_storeu_si256((__m256i *)(void *)sums, a);
        }
}
#endif

/* Codes plus codes, as the compiler puts it for AVX2. */
#if defined(K_X86)
static k_avx2 void k_add_avx2(const int8_t *a, const int8_t *b, int8_t *y, int32_t count, const k_pair *p)
{
    const int32_t ma = p->ma, mb = p->mb, bias = (int32_t)p->bias, shift = p->shift, low = p->low, high = p->high;
    int32_t i;
    for (i = 0; i < count; i++) {
        const int32_t v = (a[i] * ma + b[i] * mb + bias) >> shift;
        y[i] = (int8_t)(v < low ? low : v > high ? high : v);
    }
}
#endif

/* Floats to codes; the conversion rounds half to even, and a NaN gives way to the second operand of max. The rest one by one. */
#if defined(K_X86)
static k_avx2 void k_quantize_avx2(const float *x, int8_t *y, int32_t count, float scale, int32_t zero, int32_t low, int32_t high)
{
    const __m256 by = _mm256_set1_ps(scale), least = _mm256_set1_ps((float)(low - zero)), most = _mm256_set1_ps((float)(high - zero));
    const __m256i to = _mm256_set1_epi32(zero);
    int32_t i;
    for (i = 0; i + 8 <= count; i += 8) {
        const __m256 v = _mm256_min_ps(_mm256_max_ps(_mm256_div_ps(_mm256_loadu_ps(x + i), by), least), most);
        const __m256i codes = _mm256_add_epi32(_mm256_cvtps_epi32(v), to);
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
        _mm_storel_epi64((__m128i *)(void *)(y + i), _mm_packs_epi16(words, words));
    }
    k_quantize(x + i, y + i, count - i, scale, zero, low, high);
}
#endif

/* Eight results, each in a lane of 32 bits. AVX2 shifts 64 bits without their sign, hence the detour. */
#if defined(K_X86)
static k_avx2 __m256i k_eight_avx2(const int32_t *sums, const int32_t *multiplier, const int64_t *bias, const int64_t *shift, int32_t quick,
                                   __m256i low, __m256i high)
{
    const __m256i sign = _mm256_set1_epi64x((int64_t)((uint64_t)1 << 63)), s = _mm256_loadu_si256((const __m256i *)(const void *)sums);
    const __m256i m = _mm256_loadu_si256((const __m256i *)(const void *)multiplier);
    __m256i half[2];
    int32_t i;
    for (i = 0; i < 2; i++) {
        const __m256i by = _mm256_loadu_si256((const __m256i *)(const void *)(shift + 8 * i));
        __m256i v = i ? _mm256_mul_epi32(_mm256_srli_epi64(s, 32), _mm256_srli_epi64(m, 32)) : _mm256_mul_epi32(s, m);
        v = _mm256_add_epi64(v, _mm256_loadu_si256((const __m256i *)(const void *)(bias + 8 * i)));
        v = _mm256_sub_epi64(_mm256_srlv_epi64(_mm256_xor_si256(v, sign), by), _mm256_srlv_epi64(sign, by));
        if (!quick) {
            v = _mm256_blendv_epi8(v, low, _mm256_cmpgt_epi64(low, v));
            v = _mm256_blendv_epi8(v, high, _mm256_cmpgt_epi64(v, high));
        }
        half[i] = v;
    }
    return _mm256_blend_epi32(half[0], _mm256_slli_epi64(half[1], 32), 0xaa);
}
#endif

/* Codes by AVX2. */
#if defined(K_X86)
static k_avx2 void k_store_avx2(const int32_t *sums, int32_t count, int32_t panels, const k_panel_weight *w, int32_t panel,
                                const int64_t *bias, int8_t *y, int32_t o, int32_t left)
{
    const __m256i low = _mm256_set1_epi64x(w->low), high = _mm256_set1_epi64x(w->high);
    const __m128i least = _mm_set1_epi8((char)w->low), most = _mm_set1_epi8((char)w->high);
    int32_t i, q, j;
    for (q = 0; q < panels; q++, bias += 16) {
        const int32_t at = (panel + q) * 16, rest = left - 16 * q < 16 ? left - 16 * q : 16;
        for (i = 0; i < count; i++) {
            const int32_t *s = sums + (i * panels + q) * 16, *m = w->multiplier + at;
            const __m256i a = k_eight_avx2(s, m, bias, w->shift + at, w->quick, low, high);
            const __m256i b = k_eight_avx2(s + 8, m + 8, bias + 4, w->shift + at + 4, w->quick, low, high);
            const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
            const __m128i both = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
            const __m128i bytes = _mm_max_epi8(_mm_min_epi8(both, most), least);
            int8_t *to = y + i * o + q * 16, kept[16];
            if (rest == 16) {
                _mm_storeu_si128((__m128i *)(void *)to, bytes);
                continue;
            }
            _mm_storeu_si128((__m128i *)(void *)kept, bytes);
            for (j = 0; j < rest; j++)
                to[j] = kept[j];
        }
    }
}
#endif

/* The best set of this machine, up to AVX2. */
static k_set k_set_v3(void)
{
    k_set set = {k_tile_plain, k_listed_plain, k_depth_plain, k_store_plain, k_add_plain, k_quantize, k_lookup_plain};
#if defined(K_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) {
        set.tile = k_tile_avx2;
        set.listed = k_listed_avx2;
        set.depth = k_depth_avx2;
        set.add = k_add_avx2;
        set.quantize = k_quantize_avx2;
        set.store = k_store_avx2;
    }
#endif
    return set;
}
