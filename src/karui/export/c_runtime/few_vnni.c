/* Weights of few bits on x86-64: AVX-512 with VNNI. A four of one bit is a mask that chooses between two values; of more bits, one load repeats
 * it, each part is shifted to its numbers, and one instruction looks them up. */

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* Sixty-four bits as they lie. */
#if defined(K_X86)
static uint64_t k_mask_of(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}
#endif

/* A four's bytes: of 1 … 4 bits. */
#if defined(K_X86)
#define k_open1_vnni(p) _mm512_mask_mov_epi8(least, (__mmask64)k_mask_of(p), most)
#define k_open2_vnni(p) _mm512_shuffle_epi8(table, k_parts_vnni(_mm512_broadcast_i32x4(k_sixteen(p))))
#define k_open3_vnni(p) \
    _mm512_shuffle_epi8(table, _mm512_or_si512(k_parts_vnni(_mm512_broadcast_i32x4(k_sixteen(p))), \
                                               _mm512_maskz_mov_epi8((__mmask64)k_mask_of((p) + 16), _mm512_set1_epi8(4))))
#define k_open4_vnni(p) \
    _mm512_shuffle_epi8(table, k_parts_vnni(_mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)(p)))))
#define k_parts_vnni(v) _mm512_and_si512(_mm512_srlv_epi64(v, by), low)
#define k_table_vnni(f) \
    const __m512i table = _mm512_broadcast_i32x4(k_sixteen((f)->values)); \
    const __m512i least = _mm512_set1_epi8((f)->values[0]), most = _mm512_set1_epi8((f)->values[1]); \
    const __m512i low = _mm512_set1_epi8((f)->bits == 4 ? 15 : 3); \
    const __m512i by = (f)->bits == 4 ? _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4) : _mm512_setr_epi64(0, 0, 2, 2, 4, 4, 6, 6)
#endif

/* Bytes of some fours by AVX-512. */
#if defined(K_X86)
#define k_all_fours_vnni(open, size) \
    for (j = 0; j < fours; j++) \
        _mm512_storeu_si512((void *)(bytes + 64 * j), open(codes + (size) * j))
static k_vnni void k_open_vnni(const k_few *f, const uint8_t *codes, int32_t fours, int8_t *bytes)
{
    k_table_vnni(f);
    int32_t j;
    if (f->bits == 1) {
        k_all_fours_vnni(k_open1_vnni, 8);
    } else if (f->bits == 2) {
        k_all_fours_vnni(k_open2_vnni, 16);
    } else if (f->bits == 3) {
        k_all_fours_vnni(k_open3_vnni, 24);
    } else {
        k_all_fours_vnni(k_open4_vnni, 32);
    }
}
#endif

/* Sums of one pixel and one panel by VNNI, in four parts, as one sum would wait for itself. */
#if defined(K_X86)
#define k_meet_four_vnni(a, place, w) a = _mm512_dpbusd_epi32(a, _mm512_set1_epi32(k_four(p + (place))), w)
#define k_run_vnni(open, size) \
    for (j = 0; j + 4 <= l->fours; j += 4, p += 16, codes += 4 * (size)) { \
        k_meet_four_vnni(a, 0, open(codes)); \
        k_meet_four_vnni(b, 4, open(codes + (size))); \
        k_meet_four_vnni(c, 8, open(codes + 2 * (size))); \
        k_meet_four_vnni(d, 12, open(codes + 3 * (size))); \
    } \
    for (; j < l->fours; j++, p += 4, codes += (size)) \
        k_meet_four_vnni(a, 0, open(codes))
static k_vnni void k_few_one_vnni(const k_panels *l, const k_few *f, const uint8_t *codes, const uint8_t *at, int32_t *sums)
{
    k_table_vnni(f);
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    int32_t ry, rx, j;
    for (ry = 0; ry < l->runs_y; ry++)
        for (rx = 0; rx < l->runs_x; rx++) {
            const uint8_t *p = at + ry * l->run_y + rx * l->run_x;
            if (f->bits == 1) {
                k_run_vnni(k_open1_vnni, 8);
            } else if (f->bits == 2) {
                k_run_vnni(k_open2_vnni, 16);
            } else if (f->bits == 3) {
                k_run_vnni(k_open3_vnni, 24);
            } else {
                k_run_vnni(k_open4_vnni, 32);
            }
        }
    _mm512_storeu_si512((void *)sums, _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d)));
}
#endif

/* The best set of this machine, up to AVX-512 with VNNI. */
static k_few_set k_few_v4(void)
{
    k_few_set set = k_few_v3();
#if defined(K_X86)
    if (k_bears() & 2u) {
        set.open = k_open_vnni;
        set.one = k_few_one_vnni;
        set.tile = NULL;
    }
#endif
    return set;
}
