/* Weights of few bits on x86-64: AVX2. One instruction looks 32 numbers up. Where the values are small, two bytes' products fit in 16 bits, and
 * so do the sums of a few of them. */

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* A four's bytes in u and v: of 1 … 4 bits. */
#if defined(K_X86)
#define k_open1_avx2(p) \
    u = k_choose_avx2(p); \
    v = k_choose_avx2((p) + 4)
#define k_choose_avx2(p) _mm256_xor_si256(least, _mm256_and_si256(change, k_ones_avx2(p)))
#define k_ones_avx2(p) \
    _mm256_cmpeq_epi8(each, _mm256_and_si256(each, _mm256_shuffle_epi8(_mm256_set1_epi32(k_four(p)), spread)))
#define k_open2_avx2(p) \
    u = _mm256_broadcastsi128_si256(k_sixteen(p)); \
    u = _mm256_srlv_epi64(u, by); \
    v = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(u, 4), low)); \
    u = _mm256_shuffle_epi8(table, _mm256_and_si256(u, low))
#define k_open3_avx2(p) \
    u = _mm256_srlv_epi64(_mm256_broadcastsi128_si256(k_sixteen(p)), by); \
    v = _mm256_and_si256(_mm256_srli_epi16(u, 4), low); \
    u = _mm256_and_si256(u, low); \
    v = _mm256_shuffle_epi8(table, _mm256_or_si256(v, _mm256_and_si256(k_ones_avx2((p) + 20), _mm256_set1_epi8(4)))); \
    u = _mm256_shuffle_epi8(table, _mm256_or_si256(u, _mm256_and_si256(k_ones_avx2((p) + 16), _mm256_set1_epi8(4))))
#define k_open4_avx2(p) \
    u = _mm256_loadu_si256((const __m256i *)(const void *)(p)); \
    v = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(u, 4), low)); \
    u = _mm256_shuffle_epi8(table, _mm256_and_si256(u, low))
#define k_table_avx2(f) \
    const __m256i table = _mm256_broadcastsi128_si256(k_sixteen((f)->values)), low = _mm256_set1_epi8((f)->bits == 4 ? 15 : 3); \
    const __m256i by = _mm256_setr_epi64x(0, 0, 2, 2), each = _mm256_set1_epi64x((int64_t)0x8040201008040201u); \
    const __m256i spread = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303); \
    const __m256i least = _mm256_set1_epi8((f)->values[0]), change = _mm256_set1_epi8((char)((f)->values[0] ^ (f)->values[1]))
#endif

/* Bytes of some fours by AVX2. */
#if defined(K_X86)
#define k_all_fours_avx2(open, size) \
    for (j = 0; j < fours; j++) { \
        open(codes + (size) * j); \
        _mm256_storeu_si256((__m256i *)(void *)(bytes + 64 * j), u); \
        _mm256_storeu_si256((__m256i *)(void *)(bytes + 64 * j + 32), v); \
    }
static k_avx2 void k_open_avx2(const k_few *f, const uint8_t *codes, int32_t fours, int8_t *bytes)
{
    k_table_avx2(f);
    __m256i u, v;
    int32_t j;
    if (f->bits == 1) {
        k_all_fours_avx2(k_open1_avx2, 8)
    } else if (f->bits == 2) {
        k_all_fours_avx2(k_open2_avx2, 16)
    } else if (f->bits == 3) {
        k_all_fours_avx2(k_open3_avx2, 24)
    } else {
        k_all_fours_avx2(k_open4_avx2, 32)
    }
}
#endif

/* Sums of one pixel and one panel by AVX2: products of small values, in 16 bits until there might be no room. */
#if defined(K_X86)
#define k_small_run_avx2(open, size) \
    for (j = 0; j < l->fours; j = stop) { \
        stop = l->fours - j < f->room ? l->fours : j + f->room; \
        for (; j < stop; j++, codes += (size)) { \
            const __m256i x = _mm256_set1_epi32(k_four(p + 4 * j)); \
            open(codes); \
            c = _mm256_add_epi16(c, _mm256_maddubs_epi16(x, u)); \
            d = _mm256_add_epi16(d, _mm256_maddubs_epi16(x, v)); \
        } \
        a = _mm256_add_epi32(a, _mm256_madd_epi16(c, ones)); \
        b = _mm256_add_epi32(b, _mm256_madd_epi16(d, ones)); \
        c = d = _mm256_setzero_si256(); \
    }
static k_avx2 void k_few_small_avx2(const k_panels *l, const k_few *f, const uint8_t *codes, const uint8_t *at, int32_t *sums)
{
    k_table_avx2(f);
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a, u, v;
    int32_t ry, rx, j, stop;
    for (ry = 0; ry < l->runs_y; ry++)
        for (rx = 0; rx < l->runs_x; rx++) {
            const uint8_t *p = at + ry * l->run_y + rx * l->run_x;
            if (f->bits == 1) {
                k_small_run_avx2(k_open1_avx2, 8)
            } else if (f->bits == 2) {
                k_small_run_avx2(k_open2_avx2, 16)
            } else if (f->bits == 3) {
                k_small_run_avx2(k_open3_avx2, 24)
            } else {
                k_small_run_avx2(k_open4_avx2, 32)
            }
        }
    _mm256_storeu_si256((__m256i *)(void *)sums, a);
    _mm256_storeu_si256((__m256i *)(void *)(sums + 8), b);
}
#endif

/* The same of any values: products of 16 bits, added in pairs. Each register holds four channels, in two parts. */
#if defined(K_X86)
#define k_words_of_avx2(sum, half) sum = _mm256_add_epi32(sum, _mm256_madd_epi16(x, _mm256_cvtepi8_epi16(half)))
#define k_wide_run_avx2(open, size) \
    for (j = 0; j < l->fours; j++, codes += (size)) { \
        const __m256i x = _mm256_cvtepu8_epi16(_mm_set1_epi32(k_four(p + 4 * j))); \
        open(codes); \
        k_words_of_avx2(a, _mm256_castsi256_si128(u)); \
        k_words_of_avx2(b, _mm256_extracti128_si256(u, 1)); \
        k_words_of_avx2(c, _mm256_castsi256_si128(v)); \
        k_words_of_avx2(d, _mm256_extracti128_si256(v, 1)); \
    }
static k_avx2 void k_few_one_avx2(const k_panels *l, const k_few *f, const uint8_t *codes, const uint8_t *at, int32_t *sums)
{
    k_table_avx2(f);
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a, u, v;
    int32_t ry, rx, j;
    if (f->room) {
        k_few_small_avx2(l, f, codes, at, sums);
        return;
    }
    for (ry = 0; ry < l->runs_y; ry++)
        for (rx = 0; rx < l->runs_x; rx++) {
            const uint8_t *p = at + ry * l->run_y + rx * l->run_x;
            if (f->bits == 1) {
                k_wide_run_avx2(k_open1_avx2, 8)
            } else if (f->bits == 2) {
                k_wide_run_avx2(k_open2_avx2, 16)
            } else if (f->bits == 3) {
                k_wide_run_avx2(k_open3_avx2, 24)
            } else {
                k_wide_run_avx2(k_open4_avx2, 32)
            }
        }
    k_joined_avx2(sums, a, b, c, d);
}
#endif

/* A pixel's four against a panel; and what came of it so far, added to its sums. */
#if defined(K_X86)
#define k_small_avx2(i) \
    x = _mm256_set1_epi32(k_four(p##i + 4 * j)); \
    a##i = _mm256_add_epi16(a##i, _mm256_maddubs_epi16(x, u)); \
    b##i = _mm256_add_epi16(b##i, _mm256_maddubs_epi16(x, v))
#define k_added_avx2(i) \
    to = (__m256i *)(void *)(sums + (i) * next); \
    _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), _mm256_madd_epi16(a##i, ones))); \
    _mm256_storeu_si256(to + 1, _mm256_add_epi32(_mm256_loadu_si256(to + 1), _mm256_madd_epi16(b##i, ones))); \
    a##i = b##i = _mm256_setzero_si256()
#define k_all_added_avx2() \
    k_added_avx2(0); \
    k_added_avx2(1); \
    k_added_avx2(2); \
    k_added_avx2(3)
#endif

/* Sums of four pixels and one panel of small values by AVX2; `next`: sums from a pixel to the next. */
#if defined(K_X86)
static k_avx2 void k_small_four_avx2(const k_panels *l, const k_few *f, const int8_t *w, const uint8_t *const at[4], int32_t *sums, int32_t next)
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i a0 = _mm256_setzero_si256(), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0, u, v, x, *to;
    int32_t ry, rx, j, stop, room = f->room;
    for (j = 0; j < 4; j++)
        memset(sums + j * next, 0, 16 * sizeof(int32_t));
    for (ry = 0; ry < l->runs_y; ry++)
        for (rx = 0; rx < l->runs_x; rx++) {
            const int32_t run = ry * l->run_y + rx * l->run_x;
            const uint8_t *p0 = at[0] + run, *p1 = at[1] + run, *p2 = at[2] + run, *p3 = at[3] + run;
            for (j = 0; j < l->fours;) {
                stop = l->fours - j < room ? l->fours : j + room;
                room -= stop - j;
                for (; j < stop; j++, w += 64) {
                    u = _mm256_loadu_si256((const __m256i *)(const void *)w);
                    v = _mm256_loadu_si256((const __m256i *)(const void *)(w + 32));
                    k_small_avx2(0);
                    k_small_avx2(1);
                    k_small_avx2(2);
                    k_small_avx2(3);
                }
                if (!room) {
                    k_all_added_avx2();
                    room = f->room;
                }
            }
        }
    k_all_added_avx2();
}
#endif

/* Sums of eight pixels and panels of small values by AVX2. */
#if defined(K_X86)
static k_avx2 void k_small_tile_avx2(const k_panels *l, const k_few *f, const int8_t *w, int32_t panels, const uint8_t *const at[8],
                                     int32_t *sums)
{
    const int32_t size = l->runs_y * l->runs_x * l->fours * 64;
    int32_t q, i;
    for (q = 0; q < panels; q++)
        for (i = 0; i < 8; i += 4)
            k_small_four_avx2(l, f, w + q * size, at + i, sums + (i * panels + q) * 16, panels * 16);
}
#endif

/* The best set of this machine, up to AVX2. */
static k_few_set k_few_v3(void)
{
    k_few_set set = {k_open_plain, k_few_one_plain, NULL};
#if defined(K_X86)
    if (k_bears() & 1u) {
        set.tile = k_small_tile_avx2;
        set.open = k_open_avx2;
        set.one = k_few_one_avx2;
    }
#endif
    return set;
}
