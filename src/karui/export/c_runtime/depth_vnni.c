/* Depthwise layers on x86-64 with AVX-512 and VNNI, 64 channels at a time: bytes of four taps of a line are brought side by side, and then
 * sixteen channels meet them in one instruction. A register's four parts hold four channels of each of four panels, so that sums in four
 * registers become 64 codes in the order of the channels. */

#include <immintrin.h>
#include <stdint.h>

/* Sixteen bytes of each of four places, and of four panels' numbers. */
#if defined(K_X86)
#define k_part_vnni(p) _mm_loadu_si128((const __m128i *)(const void *)(p))
#define k_four_parts_vnni(p, q, r, s) \
    _mm512_inserti32x4( \
        _mm512_inserti32x4(_mm512_inserti32x4(_mm512_castsi128_si512(k_part_vnni(p)), k_part_vnni(q), 1), k_part_vnni(r), 2), k_part_vnni(s), 3)
static k_vnni __m512i k_panels_vnni(const void *numbers, const ptrdiff_t from[4], ptrdiff_t more)
{
    const uint8_t *p = (const uint8_t *)numbers + more;
    return k_four_parts_vnni(p + from[0], p + from[1], p + from[2], p + from[3]);
}
#endif

/* Bytes of four registers side by side: four channels of each part in x0, the next four in x1, and so on. */
#if defined(K_X86)
#define k_beside_vnni(c0, c1, c2, c3) \
    const __m512i lo = _mm512_unpacklo_epi8(c0, c1), hi = _mm512_unpackhi_epi8(c0, c1); \
    const __m512i low2 = _mm512_unpacklo_epi8(c2, c3), high2 = _mm512_unpackhi_epi8(c2, c3); \
    const __m512i x0 = _mm512_unpacklo_epi16(lo, low2), x1 = _mm512_unpackhi_epi16(lo, low2); \
    const __m512i x2 = _mm512_unpacklo_epi16(hi, high2), x3 = _mm512_unpackhi_epi16(hi, high2)
#endif

/* The weights of up to 64 channels as that. */
#if defined(K_X86)
static k_vnni void k_taps_vnni(const k_panels *l, const int8_t *weights, const ptrdiff_t from[4], __m512i *u)
{
    const __m512i none = _mm512_setzero_si512();
    int32_t ry, rx;
    for (ry = 0; ry < l->runs_y; ry++)
        for (rx = 0; rx < l->runs_x; rx += 4, u += 4) {
            const int8_t *w = weights + (ry * l->runs_x + rx) * 16;
            const __m512i c0 = k_panels_vnni(w, from, 0), c1 = rx + 1 < l->runs_x ? k_panels_vnni(w, from, 16) : none;
            const __m512i c2 = rx + 2 < l->runs_x ? k_panels_vnni(w, from, 32) : none;
            const __m512i c3 = rx + 3 < l->runs_x ? k_panels_vnni(w, from, 48) : none;
            k_beside_vnni(c0, c1, c2, c3);
            u[0] = x0;
            u[1] = x1;
            u[2] = x2;
            u[3] = x3;
        }
}
#endif

/* Their layer. What a line's last four reads beyond its taps is one of them again, and meets zeros. */
#if defined(K_X86)
#define k_column_at_vnni(j) _mm512_maskz_loadu_epi8(mask, (const void *)(p + (j) * run_x))
#define k_real_part_vnni(i) \
    const __m512 upper##i = _mm512_castsi512_ps(k_panels_vnni(w->reals, wide, 16 * (i))); \
    const __m512 lower##i = _mm512_castsi512_ps(k_panels_vnni(w->reals, wide, 64 + 16 * (i))); \
    const __m512 rest##i = _mm512_castsi512_ps(k_panels_vnni(w->reals, wide, 128 + 16 * (i))); \
    const __m512i start##i = k_panels_vnni(w->start, narrow, 16 * (i))
static k_vnni void k_deep_vnni(const k_panels *l, const k_panel_weight *w, int32_t first, const uint8_t *copy, int8_t *y)
{
    const int32_t runs_y = l->runs_y, runs_x = l->runs_x, last = (l->o + 15) / 16 - 1;
    const ptrdiff_t run_x = l->run_x, run_y = l->run_y;
    const __mmask64 mask = l->o - first < 64 ? ((__mmask64)1 << (l->o - first)) - 1u : ~(__mmask64)0;
    const __m512i low = _mm512_set1_epi8((char)w->low), high = _mm512_set1_epi8((char)w->high);
    ptrdiff_t narrow[4], wide[4], taps[4];
    int32_t i, oy, ox, ry, rx;
    __m512i weights[16 * 4];
    for (i = 0; i < 4; i++) {
        const ptrdiff_t panel = first / 16 + i < last ? first / 16 + i : last;
        narrow[i] = panel * 64;
        wide[i] = panel * 192;
        taps[i] = panel * 16 * runs_y * runs_x;
    }
    k_taps_vnni(l, w->weights, taps, weights);
    {
        k_real_part_vnni(0);
        k_real_part_vnni(1);
        k_real_part_vnni(2);
        k_real_part_vnni(3);
        y += first;
        for (oy = 0; oy * l->ow < l->pixels; oy++)
            for (ox = 0; ox < l->ow; ox++, y += l->o) {
                const uint8_t *line = copy + first + oy * (ptrdiff_t)l->down + ox * (ptrdiff_t)l->along;
                const __m512i *u = weights;
                __m512i a0 = start0, a1 = start1, a2 = start2, a3 = start3;
                for (ry = 0; ry < runs_y; ry++, line += run_y)
                    for (rx = 0; rx < runs_x; rx += 4, u += 4) {
                        const uint8_t *p = line + rx * run_x;
                        const __m512i c0 = k_column_at_vnni(0), c1 = rx + 1 < runs_x ? k_column_at_vnni(1) : c0;
                        const __m512i c2 = rx + 2 < runs_x ? k_column_at_vnni(2) : c0, c3 = rx + 3 < runs_x ? k_column_at_vnni(3) : c0;
                        k_beside_vnni(c0, c1, c2, c3);
                        a0 = _mm512_dpbusd_epi32(a0, x0, u[0]);
                        a1 = _mm512_dpbusd_epi32(a1, x1, u[1]);
                        a2 = _mm512_dpbusd_epi32(a2, x2, u[2]);
                        a3 = _mm512_dpbusd_epi32(a3, x3, u[3]);
                    }
                {
                    const __m512i s = _mm512_packs_epi32(k_whole_vnni(a0, upper0, lower0, rest0), k_whole_vnni(a1, upper1, lower1, rest1));
                    const __m512i t = _mm512_packs_epi32(k_whole_vnni(a2, upper2, lower2, rest2), k_whole_vnni(a3, upper3, lower3, rest3));
                    const __m512i codes = _mm512_max_epi8(_mm512_min_epi8(_mm512_packs_epi16(s, t), high), low);
                    if (~mask)
                        _mm512_mask_storeu_epi8((void *)y, mask, codes);
                    else
                        _mm512_storeu_si512((void *)y, codes);
                }
            }
    }
}
#endif
