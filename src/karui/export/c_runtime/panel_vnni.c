/* Panels on x86-64: AVX-512 with VNNI, and with VBMI for tables. */

#include <immintrin.h>
#include <stdint.h>

/* Eight registers to memory, `far` sums from one to the next. */
#if defined(K_X86)
#define k_put_vnni(to, far, i, a) _mm512_storeu_si512((void *)((to) + (far) * (i)), a)
#define k_keep_vnni(to, far, a, b, c, d, e, f, g, h) \
    k_put_vnni(to, far, 0, a); \
    k_put_vnni(to, far, 1, b); \
    k_put_vnni(to, far, 2, c); \
    k_put_vnni(to, far, 3, d); \
    k_put_vnni(to, far, 4, e); \
    k_put_vnni(to, far, 5, f); \
    k_put_vnni(to, far, 6, g); \
    k_put_vnni(to, far, 7, h)
#endif

/* A pixel's four against two panels. */
#if defined(K_X86)
#define k_both_vnni(i) \
    x = _mm512_set1_epi32(k_four(p##i + 4 * j)); \
    a##i = _mm512_dpbusd_epi32(a##i, x, u); \
    b##i = _mm512_dpbusd_epi32(b##i, x, v)
#endif

/* Eight pixels against two panels: what is added to a0 … a7 and b0 … b7. */
#if defined(K_X86)
#define k_add_up_vnni(l, weights, far, at) \
    do { \
        const int8_t *w_ = weights; \
        int32_t ry, rx, j; \
        for (ry = 0; ry < (l)->runs_y; ry++) \
            for (rx = 0; rx < (l)->runs_x; rx++, w_ += (l)->fours * 64) { \
                const int32_t run = ry * (l)->run_y + rx * (l)->run_x; \
                const uint8_t *p0 = at[0] + run, *p1 = at[1] + run, *p2 = at[2] + run, *p3 = at[3] + run; \
                const uint8_t *p4 = at[4] + run, *p5 = at[5] + run, *p6 = at[6] + run, *p7 = at[7] + run; \
                for (j = 0; j < (l)->fours; j++) { \
                    const __m512i u = _mm512_loadu_si512((const void *)(w_ + 64 * j)); \
                    const __m512i v = _mm512_loadu_si512((const void *)(w_ + far + 64 * j)); \
                    __m512i x; \
                    k_both_vnni(0); \
                    k_both_vnni(1); \
                    k_both_vnni(2); \
                    k_both_vnni(3); \
                    k_both_vnni(4); \
                    k_both_vnni(5); \
                    k_both_vnni(6); \
                    k_both_vnni(7); \
                } \
            } \
    } while (0)
#endif

/* Sums of eight pixels and two panels. */
#if defined(K_X86)
static k_vnni void k_wide_vnni(const k_panels *l, const int8_t *w, int32_t far, const uint8_t *const at[8], int32_t *sums)
{
    __m512i a0 = _mm512_setzero_si512(), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0;
    __m512i b0 = a0, b1 = a0, b2 = a0, b3 = a0, b4 = a0, b5 = a0, b6 = a0, b7 = a0;
    k_add_up_vnni(l, w, far, at);
    k_keep_vnni(sums, 32, a0, a1, a2, a3, a4, a5, a6, a7);
    k_keep_vnni(sums + 16, 32, b0, b1, b2, b3, b4, b5, b6, b7);
}
#endif

/* Codes of eight pixels and two panels. */
#if defined(K_X86)
static k_vnni void k_wide_codes_vnni(const k_panels *l, const int8_t *weights, int32_t far, const k_panel_weight *w, int32_t panel,
                                     const uint8_t *const at[8], int32_t count, int8_t *y, int32_t left)
{
    const __m512i low = _mm512_set1_epi8((char)w->low), high = _mm512_set1_epi8((char)w->high);
    const float *first = w->reals + panel * 48, *second = first + 48;
    const ptrdiff_t o = l->o;
    __m512i a0 = k_start_vnni(w, panel), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0;
    __m512i b0 = k_start_vnni(w, panel + 1), b1 = b0, b2 = b0, b3 = b0, b4 = b0, b5 = b0, b6 = b0, b7 = b0;
    k_add_up_vnni(l, weights, far, at);
    k_give_vnni(y, o, k_rounded_vnni(a0, a1, a2, a3, first, low, high), count, left);
    k_give_vnni(y + 16, o, k_rounded_vnni(b0, b1, b2, b3, second, low, high), count, left - 16);
    k_give_vnni(y + 4 * o, o, k_rounded_vnni(a4, a5, a6, a7, first, low, high), count - 4, left);
    k_give_vnni(y + 4 * o + 16, o, k_rounded_vnni(b4, b5, b6, b7, second, low, high), count - 4, left - 16);
}
#endif

/* A pixel's four, `place` bytes from its start, against one panel; those of eight pixels. */
#if defined(K_X86)
#define k_single_vnni(i, place) a##i = _mm512_dpbusd_epi32(a##i, _mm512_set1_epi32(k_four(p##i + (place))), u)
#define k_step_vnni(place, w) \
    u = _mm512_loadu_si512((const void *)(w)); \
    k_single_vnni(0, place); \
    k_single_vnni(1, place); \
    k_single_vnni(2, place); \
    k_single_vnni(3, place); \
    k_single_vnni(4, place); \
    k_single_vnni(5, place); \
    k_single_vnni(6, place); \
    k_single_vnni(7, place)
#endif

/* Sums of eight pixels and one panel. */
#if defined(K_X86)
static k_vnni void k_narrow_vnni(const k_panels *l, const int8_t *w, const uint8_t *const at[8], int32_t *sums)
{
    __m512i a0 = _mm512_setzero_si512(), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0, u;
    int32_t ry, rx, j;
    for (ry = 0; ry < l->runs_y; ry++)
        for (rx = 0; rx < l->runs_x; rx++, w += l->fours * 64) {
            const int32_t run = ry * l->run_y + rx * l->run_x;
            const uint8_t *p0 = at[0] + run, *p1 = at[1] + run, *p2 = at[2] + run, *p3 = at[3] + run;
            const uint8_t *p4 = at[4] + run, *p5 = at[5] + run, *p6 = at[6] + run, *p7 = at[7] + run;
            for (j = 0; j < l->fours; j++) {
                k_step_vnni(4 * j, w + 64 * j);
            }
        }
    k_keep_vnni(sums, 16, a0, a1, a2, a3, a4, a5, a6, a7);
}
#endif

/* Sums of one pixel and one panel, in four parts, as one sum would wait for itself. */
#if defined(K_X86)
static k_vnni void k_one_vnni(const k_panels *l, const int8_t *w, const uint8_t *at, int32_t *sums)
{
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    int32_t ry, rx, j;
    for (ry = 0; ry < l->runs_y; ry++)
        for (rx = 0; rx < l->runs_x; rx++) {
            const uint8_t *p = at + ry * l->run_y + rx * l->run_x;
            for (j = 0; j + 4 <= l->fours; j += 4, p += 16, w += 256) {
                a = _mm512_dpbusd_epi32(a, _mm512_set1_epi32(k_four(p)), _mm512_loadu_si512((const void *)w));
                b = _mm512_dpbusd_epi32(b, _mm512_set1_epi32(k_four(p + 4)), _mm512_loadu_si512((const void *)(w + 64)));
                c = _mm512_dpbusd_epi32(c, _mm512_set1_epi32(k_four(p + 8)), _mm512_loadu_si512((const void *)(w + 128)));
                d = _mm512_dpbusd_epi32(d, _mm512_set1_epi32(k_four(p + 12)), _mm512_loadu_si512((const void *)(w + 192)));
            }
            for (; j < l->fours; j++, p += 4, w += 64)
                a = _mm512_dpbusd_epi32(a, _mm512_set1_epi32(k_four(p)), _mm512_loadu_si512((const void *)w));
        }
    _mm512_storeu_si512((void *)sums, _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d)));
}
#endif

/* Sums by VNNI. */
#if defined(K_X86)
static k_vnni void k_tile_vnni(const k_panels *l, const int8_t *w, int32_t far, int32_t panels, const uint8_t *const at[8], int32_t one,
                               int32_t *sums)
{
    int32_t q;
    for (q = 0; one && q < panels; q++)
        k_one_vnni(l, w + q * far, at[0], sums + 16 * q);
    if (!one && panels == 2)
        k_wide_vnni(l, w, far, at, sums);
    else if (!one)
        k_narrow_vnni(l, w, at, sums);
}
#endif

/* Sixteen bytes as 32 bits. A pixel's tap, and a column of the image, which up to three neighbouring pixels see. */
#if defined(K_X86)
#define k_wide_bytes_vnni(p) _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define k_signed_vnni(p) _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define k_tap_vnni(i) a##i = _mm512_dpwssd_epi32(a##i, k_wide_bytes_vnni(at[i] + run), u)
#define k_column_vnni(j) x = k_wide_bytes_vnni(p + (j) * channels)
#define k_see_vnni(i, w) a##i = _mm512_dpwssd_epi32(a##i, x, w)
#define k_all_vnni(j, i, h, g) \
    k_column_vnni(j); \
    k_see_vnni(i, u); \
    k_see_vnni(h, v); \
    k_see_vnni(g, w2)
#endif

/* Sums of a depthwise panel, of eight neighbours in a line: a column of the image is read once for all that see it. Three taps at a time. */
#if defined(K_X86)
static k_vnni void k_slide_vnni(const k_panels *l, const int8_t *w, const uint8_t *first, int32_t *sums)
{
    __m512i a0 = _mm512_setzero_si512(), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0, x;
    const ptrdiff_t channels = l->c;
    int32_t ry, rx;
    for (ry = 0; ry < l->runs_y; ry++, w += l->runs_x * 16)
        for (rx = 0; rx < l->runs_x; rx += 3) {
            const uint8_t *p = first + ry * l->run_y + rx * channels;
            const __m512i u = k_signed_vnni(w + rx * 16), none = _mm512_setzero_si512();
            const __m512i v = rx + 1 < l->runs_x ? k_signed_vnni(w + rx * 16 + 16) : none;
            const __m512i w2 = rx + 2 < l->runs_x ? k_signed_vnni(w + rx * 16 + 32) : none;
            k_column_vnni(0);
            k_see_vnni(0, u);
            k_column_vnni(1);
            k_see_vnni(1, u);
            k_see_vnni(0, v);
            k_all_vnni(2, 2, 1, 0);
            k_all_vnni(3, 3, 2, 1);
            k_all_vnni(4, 4, 3, 2);
            k_all_vnni(5, 5, 4, 3);
            k_all_vnni(6, 6, 5, 4);
            k_all_vnni(7, 7, 6, 5);
            k_column_vnni(8);
            k_see_vnni(7, v);
            k_see_vnni(6, w2);
            k_column_vnni(9);
            k_see_vnni(7, w2);
        }
    k_keep_vnni(sums, 16, a0, a1, a2, a3, a4, a5, a6, a7);
}
#endif

/* Sums of a depthwise panel by VNNI: bytes as 32 bits, of which the lower 16 meet the weights' lower 16. */
#if defined(K_X86)
static k_vnni void k_depth_vnni(const k_panels *l, const int8_t *w, const uint8_t *const at[8], int32_t *sums)
{
    __m512i a0 = _mm512_setzero_si512(), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0;
    int32_t ry, rx;
    if (l->along == l->c && l->run_x == l->c && at[7] - at[0] == 7 * l->c) {
        k_slide_vnni(l, w, at[0], sums);
        return;
    }
    for (ry = 0; ry < l->runs_y; ry++)
        for (rx = 0; rx < l->runs_x; rx++, w += 16) {
            const int32_t run = ry * l->run_y + rx * l->run_x;
            const __m512i u = k_signed_vnni(w);
            k_tap_vnni(0);
            k_tap_vnni(1);
            k_tap_vnni(2);
            k_tap_vnni(3);
            k_tap_vnni(4);
            k_tap_vnni(5);
            k_tap_vnni(6);
            k_tap_vnni(7);
        }
    k_keep_vnni(sums, 16, a0, a1, a2, a3, a4, a5, a6, a7);
}
#endif

/* Codes plus codes. Multipliers have 21 bits: their upper six and their lower fifteen meet pairs (a, b) of 16 bits. */
#if defined(K_X86)
static k_vnni void k_add_vnni(const int8_t *a, const int8_t *b, int8_t *y, int32_t count, const k_pair *p)
{
    const __m512i upper = _mm512_set1_epi32((p->ma >> 15) | (int32_t)((uint32_t)(p->mb >> 15) << 16));
    const __m512i lower = _mm512_set1_epi32((p->ma & 0x7fff) | (p->mb & 0x7fff) << 16), bias = _mm512_set1_epi32((int32_t)p->bias);
    const __m512i low = _mm512_set1_epi16((short)p->low), high = _mm512_set1_epi16((short)p->high);
    const __m128i by = _mm_cvtsi32_si128(p->shift);
    int32_t i;
    for (i = 0; i < count; i += 32) {
        const __mmask32 mask = count - i < 32 ? (((__mmask32)1 << (count - i)) - 1u) : 0xffffffffu;
        const __m512i s = _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, (const void *)(a + i)));
        const __m512i t = _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, (const void *)(b + i)));
        const __m512i even = _mm512_unpacklo_epi16(s, t), odd = _mm512_unpackhi_epi16(s, t);
        __m512i u = _mm512_add_epi32(_mm512_slli_epi32(_mm512_madd_epi16(even, upper), 15), bias);
        __m512i v = _mm512_add_epi32(_mm512_slli_epi32(_mm512_madd_epi16(odd, upper), 15), bias);
        u = _mm512_sra_epi32(_mm512_add_epi32(u, _mm512_madd_epi16(even, lower)), by);
        v = _mm512_sra_epi32(_mm512_add_epi32(v, _mm512_madd_epi16(odd, lower)), by);
        u = _mm512_min_epi16(_mm512_max_epi16(_mm512_packs_epi32(u, v), low), high);
        _mm256_mask_storeu_epi8((void *)(y + i), mask, _mm512_cvtepi16_epi8(u));
    }
}
#endif

/* Floats to codes, sixteen at a time. */
#if defined(K_X86)
static k_vnni void k_quantize_vnni(const float *x, int8_t *y, int32_t count, float scale, int32_t zero, int32_t low, int32_t high)
{
    const __m512 by = _mm512_set1_ps(scale), least = _mm512_set1_ps((float)(low - zero)), most = _mm512_set1_ps((float)(high - zero));
    const __m512i to = _mm512_set1_epi32(zero);
    int32_t i;
    for (i = 0; i < count; i += 16) {
        const __mmask16 mask = (__mmask16)(count - i < 16 ? (1u << (count - i)) - 1u : 0xffffu);
        const __m512 v = _mm512_min_ps(_mm512_max_ps(_mm512_div_ps(_mm512_maskz_loadu_ps(mask, x + i), by), least), most);
        _mm_mask_storeu_epi8((void *)(y + i), mask, _mm512_cvtepi32_epi8(_mm512_add_epi32(_mm512_cvtps_epi32(v), to)));
    }
}
#endif

/* Codes as they are, or without a sign. */
#if defined(K_X86)
static k_vnni void k_copy_vnni(const int8_t *x, uint8_t *y, int32_t count, int32_t unsign)
{
    const __m512i by = _mm512_set1_epi8((char)unsign);
    int32_t i;
    for (i = 0; i + 64 <= count; i += 64)
        _mm512_storeu_si512((void *)(y + i), _mm512_xor_si512(_mm512_loadu_si512((const void *)(x + i)), by));
    if (i < count) {
        const __mmask64 mask = ((__mmask64)1 << (count - i)) - 1u;
        _mm512_mask_storeu_epi8((void *)(y + i), mask, _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, (const void *)(x + i)), by));
    }
}
#endif

/* Before functions that are compiled for AVX-512 with VBMI. */
#if defined(K_X86)
#define k_vbmi __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi")))
#endif

/* A table of 256 bytes in four registers: each half is one instruction, and the sign bit chooses between them. */
#if defined(K_X86)
static k_vbmi void k_lookup_vbmi(const void *x, void *y, int32_t count, const void *table)
{
    const __m512i a = _mm512_loadu_si512(table), b = _mm512_loadu_si512((const uint8_t *)table + 64);
    const __m512i c = _mm512_loadu_si512((const uint8_t *)table + 128), d = _mm512_loadu_si512((const uint8_t *)table + 192);
    int32_t i;
    for (i = 0; i < count; i += 64) {
        const __mmask64 mask = count - i < 64 ? (((__mmask64)1 << (count - i)) - 1u) : ~(__mmask64)0;
        const __m512i v = _mm512_maskz_loadu_epi8(mask, (const uint8_t *)x + i);
        const __m512i lower = _mm512_permutex2var_epi8(a, v, b), upper = _mm512_permutex2var_epi8(c, v, d);
        _mm512_mask_storeu_epi8((uint8_t *)y + i, mask, _mm512_mask_mov_epi8(lower, _mm512_movepi8_mask(v), upper));
    }
}
#endif
