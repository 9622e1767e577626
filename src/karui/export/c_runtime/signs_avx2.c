/* Layers of signs on x86-64: AVX2. Four bits of a pixel choose a row of a table: how many of them differ from each of sixteen weights' four
 * bits; one shuffle looks that up for thirty-two channels. So nothing is counted in the loop, and nothing is summed across a register. */

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* The table: [16][16], ones of row ^ column. */
#if defined(K_X86)
static k_avx2 void k_differing_avx2(__m128i table[16])
{
    const __m128i ones = _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m128i columns = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    int32_t i;
    for (i = 0; i < 16; i++)
        table[i] = _mm_shuffle_epi8(ones, _mm_xor_si128(columns, _mm_set1_epi8((char)i)));
}
#endif

/* Before a function that is written into each of its callers, so that it knows what they know. */
#if defined(K_X86)
#define k_inline inline __attribute__((always_inline))
#endif

/* A row of the table, twice; it is asked for by four bits of a pixel, in the upper half of a byte. Then: both halves of a block's eight bits; and counts of a pixel, by two blocks' four bits. */
#if defined(K_X86)
#define k_row_avx2(p) _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)(const void *)((const uint8_t *)table + (p))))
#define k_early_avx2(p) (spread == 2 ? (p)[0] : (p)[0] << 4 & 0xf0)
#define k_late_avx2(p) (spread == 2 ? (p)[1] : (p)[0] & 0xf0)
#define k_load_avx2(v, h, w) \
    v = _mm256_loadu_si256((const __m256i *)(const void *)(w)); \
    h = _mm256_and_si256(_mm256_srli_epi16(v, 4), low); \
    v = _mm256_and_si256(v, low)
#define k_count_avx2(a, b, p, u, v) \
    row = k_row_avx2(p); \
    a = _mm256_add_epi8(a, _mm256_shuffle_epi8(row, u)); \
    b = _mm256_add_epi8(b, _mm256_shuffle_epi8(row, v)); \
    __asm__("" : "+x"(a), "+x"(b)) /* as it stands: another order of the sums takes more registers than there are */
#endif

/* Counts of bytes, added to counts of 16 bits, and set to zero: channels 0–7 and 16–23 of a block, then the others. */
#if defined(K_X86)
#define k_widen_avx2(counts, a) \
    (counts)[0] = _mm256_add_epi16((counts)[0], _mm256_unpacklo_epi8(a, zero)); \
    (counts)[1] = _mm256_add_epi16((counts)[1], _mm256_unpackhi_epi8(a, zero)); \
    a = zero
#endif

/* Counts of one pixel and block as sums. */
#if defined(K_X86)
static k_avx2 void k_negative_avx2(const __m256i counts[2], int32_t step, int32_t *sums)
{
    const __m256i by = _mm256_set1_epi32(-step);
    int32_t i;
    for (i = 0; i < 4; i++) {
        const __m256i both = counts[i % 2];
        const __m128i half = i < 2 ? _mm256_castsi256_si128(both) : _mm256_extracti128_si256(both, 1);
        _mm256_storeu_si256((__m256i *)(void *)(sums + 8 * i), _mm256_mullo_epi32(_mm256_cvtepu16_epi32(half), by));
    }
}
#endif

/* Sums of four pixels and two blocks. */
#if defined(K_X86)
static k_inline k_avx2 void k_four_signs_avx2(const k_signs *l, const uint8_t *w, int32_t far, int32_t step, const int32_t spread,
                                              const uint8_t *const at[4], const __m128i *table, int32_t *sums)
{
    const k_panels *lay = &l->lay;
    const __m256i zero = _mm256_setzero_si256(), low = _mm256_set1_epi8(15);
    __m256i a0 = zero, a1 = zero, a2 = zero, a3 = zero, b0 = zero, b1 = zero, b2 = zero, b3 = zero, counts[16], row;
    int32_t plane, ry, rx, j, stop, i, room = 31; /* steps until a byte may be full */
    for (i = 0; i < 16; i++)
        counts[i] = zero;
    for (plane = l->planes - 1; plane >= 0; plane--) {
        const uint8_t *u = w, *v = w + far;
        for (i = 0; i < 16; i++)
            counts[i] = _mm256_slli_epi16(counts[i], 1);
        for (ry = 0; ry < lay->runs_y; ry++)
            for (rx = 0; rx < lay->runs_x; rx++) {
                const int32_t run = plane * l->whole + ry * lay->run_y + rx * lay->run_x;
                const uint8_t *p = at[0] + run, *q = at[1] + run, *r = at[2] + run, *s = at[3] + run;
                for (j = 0; j < lay->fours; j = stop) {
                    stop = j + room < lay->fours ? j + room : lay->fours;
                    room -= stop - j;
                    for (; j < stop; j++, u += step, v += step, p += spread, q += spread, r += spread, s += spread) {
                        __m256i first, upper, second, other;
                        k_load_avx2(first, upper, u);
                        k_load_avx2(second, other, v);
                        k_count_avx2(a0, b0, k_early_avx2(p), first, second);
                        k_count_avx2(a1, b1, k_early_avx2(q), first, second);
                        k_count_avx2(a2, b2, k_early_avx2(r), first, second);
                        k_count_avx2(a3, b3, k_early_avx2(s), first, second);
                        k_count_avx2(a0, b0, k_late_avx2(p), upper, other);
                        k_count_avx2(a1, b1, k_late_avx2(q), upper, other);
                        k_count_avx2(a2, b2, k_late_avx2(r), upper, other);
                        k_count_avx2(a3, b3, k_late_avx2(s), upper, other);
                    }
                    if (room == 0 || (ry == lay->runs_y - 1 && rx == lay->runs_x - 1 && stop == lay->fours)) {
                        k_widen_avx2(counts, a0);
                        k_widen_avx2(counts + 2, a1);
                        k_widen_avx2(counts + 4, a2);
                        k_widen_avx2(counts + 6, a3);
                        k_widen_avx2(counts + 8, b0);
                        k_widen_avx2(counts + 10, b1);
                        k_widen_avx2(counts + 12, b2);
                        k_widen_avx2(counts + 14, b3);
                        room = 31;
                    }
                }
            }
    }
    for (i = 0; i < 8; i++)
        k_negative_avx2(counts + 2 * i, l->step, sums + (i / 4 * 8 + i % 4) * 32);
}
#endif

/* Sums of one pixel and a block: for linear layers, which wait for their weights. */
#if defined(K_X86)
static k_inline k_avx2 void k_one_signs_avx2(const k_signs *l, const uint8_t *w, int32_t step, const int32_t spread, const uint8_t *at,
                                             const __m128i *table, int32_t *sums)
{
    const k_panels *lay = &l->lay;
    const __m256i zero = _mm256_setzero_si256(), low = _mm256_set1_epi8(15);
    __m256i counts[2], row;
    int32_t plane, ry, rx, j, stop;
    counts[0] = counts[1] = zero;
    for (plane = l->planes - 1; plane >= 0; plane--) {
        const uint8_t *u = w;
        counts[0] = _mm256_slli_epi16(counts[0], 1);
        counts[1] = _mm256_slli_epi16(counts[1], 1);
        for (ry = 0; ry < lay->runs_y; ry++)
            for (rx = 0; rx < lay->runs_x; rx++) {
                const uint8_t *p = at + plane * l->whole + ry * lay->run_y + rx * lay->run_x;
                for (j = 0; j < lay->fours; j = stop) {
                    __m256i a = zero, b = zero;
                    for (stop = j + 31 < lay->fours ? j + 31 : lay->fours; j < stop; j++, u += step, p += spread) {
                        __m256i first, upper;
                        k_load_avx2(first, upper, u);
                        row = k_row_avx2(k_early_avx2(p));
                        a = _mm256_add_epi8(a, _mm256_shuffle_epi8(row, first));
                        row = k_row_avx2(k_late_avx2(p));
                        b = _mm256_add_epi8(b, _mm256_shuffle_epi8(row, upper));
                    }
                    a = _mm256_add_epi8(a, b);
                    k_widen_avx2(counts, a);
                }
            }
    }
    k_negative_avx2(counts, l->step, sums);
}
#endif

/* Sums of four pixels that are spread, and of four that aren't. Each by itself: together they have less of the registers. */
#if defined(K_X86)
static k_once k_avx2 void k_four_spread_avx2(const k_signs *l, const uint8_t *w, int32_t far, const uint8_t *const at[4],
                                             const __m128i *table, int32_t *sums)
{
    k_four_signs_avx2(l, w, far, 32, 2, at, table, sums);
}

static k_once k_avx2 void k_four_bare_avx2(const k_signs *l, const uint8_t *w, int32_t far, int32_t step, const uint8_t *const at[4],
                                           const __m128i *table, int32_t *sums)
{
    k_four_signs_avx2(l, w, far, step, 1, at, table, sums);
}
#endif

/* Sums by AVX2. Where there is but one block, it stands for the second, too. What is spread doesn't lie in pairs. */
#if defined(K_X86)
static k_avx2 void k_signs_tile_avx2(const k_signs *l, const uint8_t *w, int32_t far, int32_t blocks, const uint8_t *const at[8],
                                     int32_t one, int32_t *sums)
{
    const int32_t step = k_row_of(l, blocks), other = blocks == 2 ? far : 0;
    __m128i table[16];
    int32_t i;
    k_differing_avx2(table);
    for (i = 0; one && i < blocks; i++)
        if (l->spread == 2)
            k_one_signs_avx2(l, w + i * far, 32, 2, at[0], table, sums + 256 * i);
        else
            k_one_signs_avx2(l, w + i * far, step, 1, at[0], table, sums + 256 * i);
    for (i = 0; !one && i < 8; i += 4)
        if (l->spread == 2)
            k_four_spread_avx2(l, w, other, at + i, table, sums + 32 * i);
        else
            k_four_bare_avx2(l, w, other, step, at + i, table, sums + 32 * i);
}
#endif

/* Thirty-two bits, spread or not. */
#if defined(K_X86)
static k_avx2 void k_put_bits_avx2(const k_signs *l, int32_t bits, uint8_t *to)
{
    const __m128i upper = _mm_set1_epi8((char)0xf0), b = _mm_cvtsi32_si128(bits);
    if (l->spread == 2)
        _mm_storel_epi64((__m128i *)(void *)to, _mm_unpacklo_epi8(_mm_and_si128(_mm_slli_epi16(b, 4), upper), _mm_and_si128(b, upper)));
    else
        memcpy(to, &bits, sizeof bits);
}
#endif

/* Bits of sums by AVX2. */
#if defined(K_X86)
static k_avx2 void k_bits_avx2(const k_signs *l, const int32_t *sums, const int32_t *least, int32_t left, uint8_t *to)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i below[4];
    uint8_t kept[8];
    int32_t i;
    for (i = 0; i < 4; i++)
        below[i] = _mm256_cmpgt_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(least + 8 * i)),
                                      _mm256_loadu_si256((const __m256i *)(const void *)(sums + 8 * i)));
    below[0] = _mm256_packs_epi16(_mm256_packs_epi32(below[0], below[1]), _mm256_packs_epi32(below[2], below[3]));
    i = ~_mm256_movemask_epi8(_mm256_permutevar8x32_epi32(below[0], order));
    k_put_bits_avx2(l, i, left < 32 ? kept : to);
    if (left < 32)
        memcpy(to, kept, (size_t)((left + 7) / 8 * l->spread));
}
#endif

/* Bits by AVX2: of thirty-two codes at a time. The rest one by one. */
#if defined(K_X86)
static k_avx2 void k_pack_avx2(const k_signs *l, const int8_t *x, int32_t count, int32_t plane, uint8_t *to)
{
    const __m256i least = _mm256_set1_epi8((char)l->low);
    const __m128i up = _mm_cvtsi32_si128(7 - plane);
    int32_t i;
    for (i = 0; i + 32 <= count; i += 32, to += 4 * l->spread) {
        const __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(x + i));
        const __m256i bits = l->planes == 1 ? _mm256_cmpgt_epi8(v, least) : _mm256_sll_epi16(_mm256_sub_epi8(v, least), up);
        k_put_bits_avx2(l, _mm256_movemask_epi8(bits), to);
    }
    k_pack_plain(l, x + i, count - i, plane, to);
}
#endif

/* The best set of this machine, up to AVX2. */
static k_signs_set k_signs_v3(void)
{
    k_signs_set set = k_signs_plain();
#if defined(K_X86)
    if (k_bears() & 1u) {
        set.pack = k_pack_avx2;
        set.tile = k_signs_tile_avx2;
        set.bits = k_bits_avx2;
    }
#endif
    return set;
}
