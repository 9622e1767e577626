/* Layers of signs on x86-64 with AVX-512: its count of ones of each byte takes sixty-four channels at a time, next to an exclusive-or and a
 * sum. The image isn't spread. */

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* Before functions that are compiled for AVX-512 with BITALG. */
#if defined(K_X86)
#define k_bitalg __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bitalg")))
#endif

/* Eight inputs of sixty-four channels; where there is but one block, it stands for the second, too. And how many of them differ from a
 * pixel's eight bits, added to counts of bytes. */
#if defined(K_X86)
#define k_load_bitalg(w) \
    (row == 64 ? _mm512_loadu_si512((const void *)(w)) : _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)(w))))
#define k_count_bitalg(i) \
    a##i = _mm512_add_epi8(a##i, _mm512_popcnt_epi8(_mm512_xor_si512(_mm512_set1_epi8((char)p##i[j]), v)))
#endif

/* Counts of bytes, added to counts of 16 bits, and set to zero: the first block's and the second's. */
#if defined(K_X86)
#define k_widen_bitalg(i) \
    b##i = _mm512_add_epi16(b##i, _mm512_cvtepu8_epi16(_mm512_castsi512_si256(a##i))); \
    c##i = _mm512_add_epi16(c##i, _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(a##i, 1))); \
    a##i = _mm512_setzero_si512()
#define k_twice_bitalg(i) \
    b##i = _mm512_slli_epi16(b##i, 1); \
    c##i = _mm512_slli_epi16(c##i, 1)
#define k_eight_bitalg(what) \
    what(0); \
    what(1); \
    what(2); \
    what(3); \
    what(4); \
    what(5); \
    what(6); \
    what(7)
#endif

/* Counts of one pixel and a block as sums; and of two blocks, where there are two. */
#if defined(K_X86)
#define k_put_bitalg(counts, sums) \
    _mm512_storeu_si512((void *)(sums), _mm512_mullo_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(counts)), by)); \
    _mm512_storeu_si512((void *)((sums) + 16), _mm512_mullo_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(counts, 1)), by))
#define k_put_both_bitalg(i) \
    k_put_bitalg(b##i, sums + 32 * i); \
    if (row == 64) { \
        k_put_bitalg(c##i, sums + 256 + 32 * i); \
    }
#endif

/* Sums of eight pixels and two blocks. */
#if defined(K_X86)
static k_bitalg void k_eight_signs_bitalg(const k_signs *l, const uint8_t *w, int32_t row, const uint8_t *const at[8], int32_t *sums)
{
    const k_panels *lay = &l->lay;
    const __m512i zero = _mm512_setzero_si512(), by = _mm512_set1_epi32(-l->step);
    __m512i a0 = zero, a1 = zero, a2 = zero, a3 = zero, a4 = zero, a5 = zero, a6 = zero, a7 = zero;
    __m512i b0 = zero, b1 = zero, b2 = zero, b3 = zero, b4 = zero, b5 = zero, b6 = zero, b7 = zero;
    __m512i c0 = zero, c1 = zero, c2 = zero, c3 = zero, c4 = zero, c5 = zero, c6 = zero, c7 = zero;
    int32_t plane, ry, rx, j, stop, room = 31; /* steps until a byte may be full */
    for (plane = l->planes - 1; plane >= 0; plane--) {
        const uint8_t *u = w;
        for (ry = 0; ry < lay->runs_y; ry++)
            for (rx = 0; rx < lay->runs_x; rx++) {
                const int32_t run = plane * l->whole + ry * lay->run_y + rx * lay->run_x;
                const uint8_t *p0 = at[0] + run, *p1 = at[1] + run, *p2 = at[2] + run, *p3 = at[3] + run;
                const uint8_t *p4 = at[4] + run, *p5 = at[5] + run, *p6 = at[6] + run, *p7 = at[7] + run;
                for (j = 0; j < lay->fours;) {
                    stop = j + room < lay->fours ? j + room : lay->fours;
                    room -= stop - j;
                    for (; j < stop; j++, u += row) {
                        const __m512i v = k_load_bitalg(u);
                        k_eight_bitalg(k_count_bitalg);
                    }
                    if (room == 0) {
                        k_eight_bitalg(k_widen_bitalg);
                        room = 31;
                    }
                }
            }
        k_eight_bitalg(k_widen_bitalg);
        room = 31;
        if (plane > 0) {
            k_eight_bitalg(k_twice_bitalg);
        }
    }
    k_eight_bitalg(k_put_both_bitalg);
}
#endif

/* Sums of one pixel and two blocks: for linear layers, which wait for their weights. */
#if defined(K_X86)
static k_bitalg void k_one_signs_bitalg(const k_signs *l, const uint8_t *w, int32_t row, const uint8_t *at, int32_t *sums)
{
    const k_panels *lay = &l->lay;
    const __m512i by = _mm512_set1_epi32(-l->step);
    __m512i b0 = _mm512_setzero_si512(), c0 = b0;
    int32_t plane, ry, rx, j, stop;
    for (plane = l->planes - 1; plane >= 0; plane--) {
        const uint8_t *u = w;
        k_twice_bitalg(0);
        for (ry = 0; ry < lay->runs_y; ry++)
            for (rx = 0; rx < lay->runs_x; rx++) {
                const uint8_t *p0 = at + plane * l->whole + ry * lay->run_y + rx * lay->run_x;
                for (j = 0; j < lay->fours;) {
                    __m512i a0 = _mm512_setzero_si512();
                    for (stop = j + 31 < lay->fours ? j + 31 : lay->fours; j < stop; j++, u += row) {
                        const __m512i v = k_load_bitalg(u);
                        k_count_bitalg(0);
                    }
                    k_widen_bitalg(0);
                }
            }
    }
    k_put_both_bitalg(0)
}
#endif

/* Sums by AVX-512. */
#if defined(K_X86)
static k_bitalg void k_signs_tile_bitalg(const k_signs *l, const uint8_t *w, int32_t far, int32_t blocks, const uint8_t *const at[8],
                                         int32_t one, int32_t *sums)
{
    (void)far; /* blocks lie in pairs */
    if (one)
        k_one_signs_bitalg(l, w, 32 * blocks, at[0], sums);
    else
        k_eight_signs_bitalg(l, w, 32 * blocks, at, sums);
}
#endif

/* Bits of sums by AVX-512. */
#if defined(K_X86)
static k_bitalg void k_bits_bitalg(const k_signs *l, const int32_t *sums, const int32_t *least, int32_t left, uint8_t *to)
{
    const __m512i low = _mm512_loadu_si512((const void *)sums), high = _mm512_loadu_si512((const void *)(sums + 16));
    const uint32_t upper = _mm512_cmpge_epi32_mask(high, _mm512_loadu_si512((const void *)(least + 16)));
    const uint32_t bits = _mm512_cmpge_epi32_mask(low, _mm512_loadu_si512((const void *)least)) | upper << 16;
    (void)l;
    memcpy(to, &bits, left < 32 ? (size_t)((left + 7) / 8) : sizeof bits);
}
#endif

/* Sixteen sums as codes of 32 bits. */
#if defined(K_X86)
#define k_round_bitalg(at, by, to) \
    _mm512_cvtps_epi32(_mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_loadu_si512((const void *)(at))), by, to))
#endif

/* Codes by rounding: two pixels at a time; the last one may stand for both. */
#if defined(K_X86)
static k_bitalg void k_rounded_bitalg(const k_signs *l, const k_panel_weight *w, const int32_t *sums, int32_t count, int32_t block,
                                    int32_t left, int8_t *y)
{
    const __mmask32 mask = left < 32 ? ((__mmask32)1 << left) - 1u : 0xffffffffu;
    const __m512 by = _mm512_loadu_ps(l->scale + 32 * block), next_by = _mm512_loadu_ps(l->scale + 32 * block + 16);
    const __m512 to = _mm512_loadu_ps(l->offset + 32 * block), next_to = _mm512_loadu_ps(l->offset + 32 * block + 16);
    const __m512i low = _mm512_set1_epi8((char)w->low), high = _mm512_set1_epi8((char)w->high);
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    int32_t i;
    for (i = 0; i < count; i += 2, sums += 64, y += 2 * l->lay.o) {
        const int32_t *other = i + 1 < count ? sums + 32 : sums;
        const __m512i a = _mm512_packs_epi32(k_round_bitalg(sums, by, to), k_round_bitalg(sums + 16, next_by, next_to));
        const __m512i b = _mm512_packs_epi32(k_round_bitalg(other, by, to), k_round_bitalg(other + 16, next_by, next_to));
        const __m512i c = _mm512_max_epi8(_mm512_min_epi8(_mm512_packs_epi16(a, b), high), low);
        const __m512i d = _mm512_permutexvar_epi32(order, c);
        _mm256_mask_storeu_epi8((void *)y, mask, _mm512_castsi512_si256(d));
        if (i + 1 < count)
            _mm256_mask_storeu_epi8((void *)(y + l->lay.o), mask, _mm512_extracti64x4_epi64(d, 1));
    }
}
#endif

/* Bits by AVX-512: of sixty-four codes at a time. The rest one by one. */
#if defined(K_X86)
static k_bitalg void k_pack_bitalg(const k_signs *l, const int8_t *x, int32_t count, int32_t plane, uint8_t *to)
{
    const __m512i least = _mm512_set1_epi8((char)l->low), bit = _mm512_set1_epi8((char)(1 << plane));
    int32_t i;
    for (i = 0; i < count; i += 64, to += 8) {
        const __mmask64 mask = count - i < 64 ? ((__mmask64)1 << (count - i)) - 1u : ~(__mmask64)0;
        const __m512i v = _mm512_maskz_loadu_epi8(mask, (const void *)(x + i));
        const uint64_t bits = l->planes == 1 ? _mm512_mask_cmpgt_epi8_mask(mask, v, least)
                                             : _mm512_mask_test_epi8_mask(mask, _mm512_sub_epi8(v, least), bit);
        memcpy(to, &bits, count - i < 64 ? (size_t)((count - i + 7) / 8) : sizeof bits);
    }
}
#endif

/* The best set of this machine, up to AVX-512. */
static k_signs_set k_signs_v4(void)
{
    k_signs_set set = k_signs_v3();
#if defined(K_X86)
    if (k_bears() & 8u) {
        set.pack = k_pack_bitalg;
        set.tile = k_signs_tile_bitalg;
        set.bits = k_bits_bitalg;
        set.codes = k_rounded_bitalg;
    }
#endif
    return set;
}
