/* Panels on x86-64: AVX2. Each function is compiled for its own instructions, whatever the compiler was told of the machine; which one runs
 * is chosen there. */

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* Before a loop: two steps between jumps. Written out, gcc would add up the two first, and run out of registers. */
#if defined(K_X86)
#if defined(__clang__)
#define k_twice
#else
#define k_twice _Pragma("GCC unroll 2")
#endif
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

/* How many fours of a pixel are made 16 bits wide at a time, and how many numbers lie from a pixel's to the next's. */
#if defined(K_X86)
#define k_room_wide_avx2 64
#define k_far_avx2 (4 * k_room_wide_avx2 + 16)
#endif

/* A four of four pixels, as 16 bits, against eight channels. */
#if defined(K_X86)
#define k_meet_avx2(i) \
    z = _mm256_set1_epi64x(k_words(x + (i) * k_far_avx2)); \
    a##i = _mm256_add_epi32(a##i, _mm256_madd_epi16(z, u)); \
    b##i = _mm256_add_epi32(b##i, _mm256_madd_epi16(z, v))
#define k_plus_avx2(i) \
    z = _mm256_permute4x64_epi64(_mm256_hadd_epi32(a##i, b##i), 0xd8); \
    to = (__m256i *)(void *)(sums + (i) * next); \
    _mm256_storeu_si256(to, more ? _mm256_add_epi32(z, _mm256_loadu_si256(to)) : z)
#endif

/* Four numbers as they lie. */
#if defined(K_X86)
static int64_t k_words(const int16_t *p)
{
    int64_t v;
    memcpy(&v, p, 8);
    return v;
}
#endif

/* Sums of eight pixels and one panel over some fours, four pixels and eight channels at a time; `more`: added to those that are there. */
#if defined(K_X86)
static k_avx2 void k_part_avx2(const int16_t *wide, const int8_t *panel, int32_t fours, int32_t *first, int32_t next, int32_t more)
{
    int32_t h, j;
    for (h = 0; h < 4; h++) {
        const int16_t *x = wide + h / 2 * 4 * k_far_avx2;
        const int8_t *w = panel + h % 2 * 32;
        int32_t *sums = first + h / 2 * 4 * next + h % 2 * 8;
        __m256i a0 = _mm256_setzero_si256(), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0, u, v, z, *to;
        k_twice for (j = 0; j < fours; j++, x += 4, w += 64) {
            u = _mm256_cvtepi8_epi16(k_sixteen(w));
            v = _mm256_cvtepi8_epi16(k_sixteen(w + 16));
            k_meet_avx2(0);
            k_meet_avx2(1);
            k_meet_avx2(2);
            k_meet_avx2(3);
        }
        k_plus_avx2(0);
        k_plus_avx2(1);
        k_plus_avx2(2);
        k_plus_avx2(3);
    }
}
#endif

/* Fours of eight pixels as 16 bits; up to 15 bytes behind them are read, and as many numbers written. */
#if defined(K_X86)
static k_avx2 void k_words_avx2(const uint8_t *const at[8], int32_t place, int32_t fours, int16_t *wide)
{
    int32_t i, k;
    for (i = 0; i < 8; i++, wide += k_far_avx2)
        for (k = 0; k < 4 * fours; k += 16) {
            const void *from = at[i] + place + k;
            _mm256_storeu_si256((__m256i *)(void *)(wide + k), _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)from)));
        }
}
#endif

/* Sums by AVX2. What eight pixels see is made 16 bits wide once for both panels. */
#if defined(K_X86)
static k_avx2 void k_tile_avx2(const k_panels *l, const int8_t *w, int32_t far, int32_t panels, const uint8_t *const at[8], int32_t one,
                               int32_t *sums)
{
    const int32_t all = l->runs_y * l->runs_x * l->fours;
    int16_t wide[8 * k_far_avx2];
    int32_t q, done, n, ry = 0, rx = 0, j = 0;
    for (q = 0; one && q < panels; q++)
        k_two_avx2(l, w + q * far, at[0], at[1], sums + q * 16, panels * 16);
    for (done = 0; !one && done < all; done += n) {
        for (n = 0; n < k_room_wide_avx2 && done + n < all;) {
            const int32_t left = k_room_wide_avx2 - n, take = l->fours - j < left ? l->fours - j : left;
            k_words_avx2(at, ry * l->run_y + rx * l->run_x + 4 * j, take, wide + 4 * n);
            n += take;
            j += take;
            if (j == l->fours) {
                j = 0;
                rx++;
                if (rx == l->runs_x) {
                    rx = 0;
                    ry++;
                }
            }
        }
        for (q = 0; q < panels; q++)
            k_part_avx2(wide, w + q * far + done * 64, n, sums + q * 16, panels * 16, done > 0);
    }
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

/* Codes plus codes. Multipliers have 21 bits: their upper six and their lower fifteen meet pairs (a, b) of 16 bits. The rest one by one. */
#if defined(K_X86)
static k_avx2 void k_add_avx2(const int8_t *a, const int8_t *b, int8_t *y, int32_t count, const k_pair *p)
{
    const __m256i upper = _mm256_set1_epi32((p->ma >> 15) | (int32_t)((uint32_t)(p->mb >> 15) << 16));
    const __m256i lower = _mm256_set1_epi32((p->ma & 0x7fff) | (p->mb & 0x7fff) << 16), bias = _mm256_set1_epi32((int32_t)p->bias);
    const __m128i low = _mm_set1_epi8((char)p->low), high = _mm_set1_epi8((char)p->high), by = _mm_cvtsi32_si128(p->shift);
    int32_t i;
    for (i = 0; i + 16 <= count; i += 16) {
        const __m256i s = _mm256_cvtepi8_epi16(k_sixteen(a + i)), t = _mm256_cvtepi8_epi16(k_sixteen(b + i));
        const __m256i even = _mm256_unpacklo_epi16(s, t), odd = _mm256_unpackhi_epi16(s, t);
        __m256i u = _mm256_add_epi32(_mm256_slli_epi32(_mm256_madd_epi16(even, upper), 15), bias);
        __m256i v = _mm256_add_epi32(_mm256_slli_epi32(_mm256_madd_epi16(odd, upper), 15), bias);
        __m128i codes;
        u = _mm256_sra_epi32(_mm256_add_epi32(u, _mm256_madd_epi16(even, lower)), by);
        v = _mm256_sra_epi32(_mm256_add_epi32(v, _mm256_madd_epi16(odd, lower)), by);
        u = _mm256_packs_epi32(u, v);
        codes = _mm_packs_epi16(_mm256_castsi256_si128(u), _mm256_extracti128_si256(u, 1));
        _mm_storeu_si128((__m128i *)(void *)(y + i), _mm_max_epi8(_mm_min_epi8(codes, high), low));
    }
    k_add_plain(a + i, b + i, y + i, count - i, p);
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
static k_avx2 __m256i k_eight_avx2(const int32_t *sums, const int32_t *multiplier, const int64_t *bias, const int64_t *shift, __m256i low,
                                   __m256i high)
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
        v = _mm256_blendv_epi8(v, low, _mm256_cmpgt_epi64(low, v));
        half[i] = _mm256_blendv_epi8(v, high, _mm256_cmpgt_epi64(v, high));
    }
    return _mm256_blend_epi32(half[0], _mm256_slli_epi64(half[1], 32), 0xaa);
}
#endif

/* Up to sixteen codes to memory. */
#if defined(K_X86)
static k_avx2 void k_put_avx2(__m128i bytes, int8_t *y, int32_t count)
{
    int8_t kept[16];
    int32_t j;
    if (count == 16) {
        _mm_storeu_si128((__m128i *)(void *)y, bytes);
        return;
    }
    _mm_storeu_si128((__m128i *)(void *)kept, bytes);
    for (j = 0; j < count; j++)
        y[j] = kept[j];
}
#endif

/* Eight results where that is quick: shifts are 32 or more, so upper halves are shifted by what is left. Then sixteen, as 16 bits. */
#if defined(K_X86)
#define k_long_avx2(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define k_upper_avx2(p, h) \
    _mm256_srav_epi32( \
        _mm256_blend_epi32(_mm256_srli_epi64(_mm256_add_epi64(_mm256_mul_epi32(k_long_avx2(p), m[h]), even[h]), 32), \
                           _mm256_add_epi64(_mm256_mul_epi32(_mm256_srli_epi64(k_long_avx2(p), 32), n[h]), odd[h]), 0xaa), by[h])
#define k_sixteen_avx2(p) _mm256_packs_epi32(k_upper_avx2(p, 0), k_upper_avx2((p) + 8, 1))
#endif

/* Codes of one panel by AVX2, where that is quick: two pixels at a time. */
#if defined(K_X86)
static k_avx2 void k_quick_avx2(const int32_t *sums, int32_t far, int32_t count, const k_panel_weight *w, int32_t at, const int64_t *bias,
                                int8_t *y, int32_t o, int32_t rest)
{
    const __m256i least = _mm256_set1_epi8((char)w->low), most = _mm256_set1_epi8((char)w->high);
    const __m256i turned = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7), half = _mm256_set1_epi32(32);
    __m256i m[2], n[2], even[2], odd[2], by[2];
    int32_t i;
    for (i = 0; i < 2; i++) {
        m[i] = k_long_avx2(w->multiplier + at + 8 * i);
        n[i] = _mm256_srli_epi64(m[i], 32);
        even[i] = k_long_avx2(bias + 4 * i);
        odd[i] = k_long_avx2(bias + 8 + 4 * i);
        by[i] = _mm256_slli_epi64(k_long_avx2(w->shift + at + 8 + 4 * i), 32);
        by[i] = _mm256_sub_epi32(_mm256_or_si256(k_long_avx2(w->shift + at + 4 * i), by[i]), half);
    }
    for (i = 0; i < count; i += 2, sums += 2 * far, y += 2 * o) {
        const int32_t *second = i + 1 < count ? sums + far : sums;
        __m256i bytes = _mm256_packs_epi16(k_sixteen_avx2(sums), k_sixteen_avx2(second));
        bytes = _mm256_permutevar8x32_epi32(_mm256_max_epi8(_mm256_min_epi8(bytes, most), least), turned);
        k_put_avx2(_mm256_castsi256_si128(bytes), y, rest);
        if (i + 1 < count)
            k_put_avx2(_mm256_extracti128_si256(bytes, 1), y + o, rest);
    }
}
#endif

/* Codes by AVX2. */
#if defined(K_X86)
static k_avx2 void k_store_avx2(const int32_t *sums, int32_t count, int32_t panels, const k_panel_weight *w, int32_t panel,
                                const int64_t *bias, int8_t *y, int32_t o, int32_t left)
{
    const __m256i low = _mm256_set1_epi64x(w->low), high = _mm256_set1_epi64x(w->high);
    const __m128i least = _mm_set1_epi8((char)w->low), most = _mm_set1_epi8((char)w->high);
    int32_t i, q;
    for (q = 0; q < panels; q++, bias += 16) {
        const int32_t at = (panel + q) * 16, rest = left - 16 * q < 16 ? left - 16 * q : 16;
        if (w->quick)
            k_quick_avx2(sums + q * 16, panels * 16, count, w, at, bias, y + q * 16, o, rest);
        for (i = 0; !w->quick && i < count; i++) {
            const int32_t *s = sums + (i * panels + q) * 16, *m = w->multiplier + at;
            const __m256i a = k_eight_avx2(s, m, bias, w->shift + at, low, high);
            const __m256i b = k_eight_avx2(s + 8, m + 8, bias + 4, w->shift + at + 4, low, high);
            const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
            const __m128i both = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
            k_put_avx2(_mm_max_epi8(_mm_min_epi8(both, most), least), y + i * o + q * 16, rest);
        }
    }
}
#endif

/* The best set of this machine, up to AVX2. */
static k_set k_set_v3(void)
{
    k_set set = {k_tile_plain, k_listed_plain, k_depth_plain, k_store_plain, k_add_plain, k_quantize, k_lookup_plain, k_copy_plain,
                 NULL,         NULL,           NULL};
#if defined(K_X86)
    if (k_bears() & 1u) {
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
