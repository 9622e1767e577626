/* Layers of listed fours on x86-64 with AVX-512 and VNNI: sums stay in registers until they are codes. */

#include <immintrin.h>
#include <stdint.h>

/* Eight pixels wherever they lie. */
#if defined(K_X86)
static k_vnni void k_eight_vnni(const k_panel_weight *w, int32_t panel, const uint8_t *const at[8], int32_t count, int8_t *y, ptrdiff_t o,
                                int32_t left)
{
    const int32_t *list = w->list + (panel ? w->ends[panel - 1] : 0), *end = w->list + w->ends[panel];
    const int8_t *from = w->weights + (list - w->list) * 64;
    const __m512i low = _mm512_set1_epi8((char)w->low), high = _mm512_set1_epi8((char)w->high);
    const uint8_t *p0 = at[0], *p1 = at[1], *p2 = at[2], *p3 = at[3], *p4 = at[4], *p5 = at[5], *p6 = at[6], *p7 = at[7];
    __m512i a0 = k_start_vnni(w, panel), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0, u;
    for (; list < end; list++, from += 64) {
        const ptrdiff_t place = *list;
        k_step_vnni(place, from);
    }
    if (!w->reals) {
        int32_t sums[8 * 16];
        k_keep_vnni(sums, 16, a0, a1, a2, a3, a4, a5, a6, a7);
        k_store_vnni(sums, count, 1, w, panel, w->bias + panel * 16, y, (int32_t)o, left);
        return;
    }
    a0 = k_rounded_vnni(a0, a1, a2, a3, w->reals + panel * 48, low, high);
    a4 = k_rounded_vnni(a4, a5, a6, a7, w->reals + panel * 48, low, high);
    k_give_vnni(y, o, a0, count, left);
    k_give_vnni(y + 4 * o, o, a4, count - 4, left);
}
#endif

/* A four of the pixel that lies `far` bytes from p. */
#if defined(K_X86)
#define k_far_vnni(i, p, far) a##i = _mm512_dpbusd_epi32(a##i, _mm512_set1_epi32(k_four((p) + (far))), u)
#endif

/* Sixteen pixels that lie `along` bytes apart. */
#if defined(K_X86)
static k_vnni void k_line_vnni(const k_panel_weight *w, int32_t panel, const uint8_t *at, ptrdiff_t along, int8_t *y, ptrdiff_t o,
                               int32_t left)
{
    const int32_t *list = w->list + (panel ? w->ends[panel - 1] : 0), *end = w->list + w->ends[panel];
    const int8_t *from = w->weights + (list - w->list) * 64;
    const __m512i low = _mm512_set1_epi8((char)w->low), high = _mm512_set1_epi8((char)w->high);
    __m512i a0 = k_start_vnni(w, panel), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0, u;
    __m512i a8 = a0, a9 = a0, a10 = a0, a11 = a0, a12 = a0, a13 = a0, a14 = a0, a15 = a0;
    for (; list < end; list++, from += 64) {
        const uint8_t *p = at + *list, *q = p + 8 * along;
        u = _mm512_loadu_si512((const void *)from);
        k_far_vnni(0, p, 0);
        k_far_vnni(1, p, along);
        k_far_vnni(2, p, 2 * along);
        k_far_vnni(3, p, 3 * along);
        k_far_vnni(4, p, 4 * along);
        k_far_vnni(5, p, 5 * along);
        k_far_vnni(6, p, 6 * along);
        k_far_vnni(7, p, 7 * along);
        k_far_vnni(8, q, 0);
        k_far_vnni(9, q, along);
        k_far_vnni(10, q, 2 * along);
        k_far_vnni(11, q, 3 * along);
        k_far_vnni(12, q, 4 * along);
        k_far_vnni(13, q, 5 * along);
        k_far_vnni(14, q, 6 * along);
        k_far_vnni(15, q, 7 * along);
    }
    a0 = k_rounded_vnni(a0, a1, a2, a3, w->reals + panel * 48, low, high);
    a4 = k_rounded_vnni(a4, a5, a6, a7, w->reals + panel * 48, low, high);
    a8 = k_rounded_vnni(a8, a9, a10, a11, w->reals + panel * 48, low, high);
    a12 = k_rounded_vnni(a12, a13, a14, a15, w->reals + panel * 48, low, high);
    k_give_vnni(y, o, a0, 4, left);
    k_give_vnni(y + 4 * o, o, a4, 4, left);
    k_give_vnni(y + 8 * o, o, a8, 4, left);
    k_give_vnni(y + 12 * o, o, a12, 4, left);
}
#endif

/* Codes of up to sixteen pixels. */
#if defined(K_X86)
static k_vnni void k_lists_vnni(const k_panels *l, const k_panel_weight *w, int32_t panel, const uint8_t *const at[16], int32_t count,
                                int8_t *y, int32_t left)
{
    const ptrdiff_t along = at[1] - at[0];
    int32_t i;
    if (w->reals && count == 16 && at[7] - at[0] == 7 * along && at[15] - at[0] == 15 * along) {
        k_line_vnni(w, panel, at[0], along, y, l->o, left);
        return;
    }
    for (i = 0; i < count; i += 8)
        k_eight_vnni(w, panel, at + i, count - i < 8 ? count - i : 8, y + i * l->o, l->o, left);
}
#endif

/* The best set of this machine, up to AVX-512 with VNNI. */
static k_set k_set_v4(void)
{
    k_set set = k_set_v3();
#if defined(K_X86)
    const uint32_t bears = k_bears();
    if (bears & 2u) {
        set.tile = k_tile_vnni;
        set.copy = k_copy_vnni;
        set.lists = k_lists_vnni;
        set.depth = k_depth_vnni;
        set.add = k_add_vnni;
        set.quantize = k_quantize_vnni;
        set.store = k_store_vnni;
        set.codes = k_wide_codes_vnni;
        set.deep = k_deep_vnni;
    }
    if (bears & 4u)
        set.lookup = k_lookup_vbmi;
#endif
    return set;
}
