/* Integer layers by twos (duo.c) whose weights are no bytes that can be read in place: packed bits, palettes, lists of what is stored.
 *
 * Some duos of channels are decoded at a time, by the decoders of weights.c, into words as the loops of duo.c want them, and then meet all
 * pixels: a decoder's work is shared, and what a pixel sees is written out once for each of those tiles. */

#include <stdint.h>
#include <string.h>

/* Bytes 0 and 2 of two words, as halves a + 256 · b. */
static int32_t k_beside(uint32_t a, uint32_t b)
{
#if defined(K_DSP)
    return (int32_t)__uadd16((uint32_t)k_even(a), b << 8 & 0xff00ff00u);
#else
    const uint32_t even = (uint32_t)k_even(a), odd = b << 8 & 0xff00ff00u;
    return (int32_t)(((even & 0x7fff7fffu) + (odd & 0x7fff7fffu)) ^ ((even ^ odd) & 0x80008000u));
#endif
}

/* Two rows as the words of a duo; each run of `length` bytes begins with a four of its own. */
static k_once void k_duo_words(const int8_t *a, const int8_t *b, int32_t inputs, int32_t length, int32_t *to)
{
    const int8_t *const end = a + inputs;
    for (; a < end; a += length, b += length) {
        int32_t i;
        for (i = 0; i < length; i += 4) {
            const int32_t rest = length - i;
            const uint32_t first = rest < 4 ? k_tail(a, length, rest) : k_word(a + i);
            const uint32_t second = rest < 4 ? k_tail(b, length, rest) : k_word(b + i);
            *to++ = k_beside(first, second);
            *to++ = k_beside(first >> 8, second >> 8);
        }
    }
}

/* Four numbers of 1 … 6 bits as they lie in a stream, which may be read three bytes beyond them. */
static uint32_t k_fours(const uint8_t *stream, uint32_t at)
{
    return k_word((const int8_t *)stream + (at >> 3)) >> (at & 7u);
}

/* How packed numbers become codes. */
typedef struct {
    uint32_t all, two, one;     /* the bits of four numbers, of two, of the lower one of each two */
    uint32_t first, second;     /* v + upper · (2^n − 1) moves the upper half of v up: first of all four, then of both twos */
    uint32_t step, offset;      /* of four bytes */
} k_unpacking;

/* Four codes, a byte each. */
static uint32_t k_unpacked(uint32_t v, const k_unpacking *u)
{
    v &= u->all;
    v += (v & ~u->two) * u->first;
    v += (v & ~u->one) * u->second;
    v *= u->step;
#if defined(K_DSP)
    return __usub8(v, u->offset);
#else
    return ((v | 0x80808080u) - u->offset) ^ 0x80808080u; /* no byte borrows from the next */
#endif
}

/* Packed codes without a zero point, of up to 6 bits. */
static k_once void k_quick_packed(const k_weight *w, k_cursor *c, int32_t row, int32_t count, const k_index *index, int8_t *out)
{
    const uint32_t bits = (uint32_t)w->bits, apart = 4u * bits;
    const uint8_t *stream = (const uint8_t *)w->values;
    uint32_t at = c->value * bits, first = (1u << (16u - 2u * bits)) - 1u, second = (1u << (8u - bits)) - 1u;
    int8_t *const end = out + count / 4 * 4;
    k_unpacking u;
    (void)row;
    (void)index;
#if defined(K_DSP)
    __asm__("" : "+r"(first), "+r"(second)); /* a product and a sum are one instruction, if the compiler doesn't know better */
#endif
    u.all = (1u << apart) - 1u;
    u.two = (1u << 2u * bits) - 1u;
    u.one = ((1u << bits) - 1u) * 0x00010001u;
    u.first = first;
    u.second = second;
    u.step = (uint32_t)w->step;
    u.offset = (uint32_t)w->offset * 0x01010101u;
    c->value += (uint32_t)count;
    for (; out < end; out += 4, at += apart) {
        const uint32_t v = k_unpacked(k_fours(stream, at), &u);
        out[0] = (int8_t)(uint8_t)v;
        out[1] = (int8_t)(uint8_t)(v >> 8);
        out[2] = (int8_t)(uint8_t)(v >> 16);
        out[3] = (int8_t)(uint8_t)(v >> 24);
    }
    if (count % 4) {
        uint32_t v = k_unpacked(k_fours(stream, at), &u);
        for (count %= 4; count; count--, v >>= 8)
            *out++ = (int8_t)(uint8_t)v;
    }
}

/* Indices of up to 6 bits into a codebook. */
static k_once void k_quick_table(const k_weight *w, k_cursor *c, int32_t row, int32_t count, const k_index *index, int8_t *out)
{
    const uint32_t bits = (uint32_t)w->bits, mask = (1u << bits) - 1u;
    const int8_t *table = (const int8_t *)w->table, *const end = out + count;
    const uint8_t *stream = (const uint8_t *)w->values;
    uint32_t at = c->value * bits;
    (void)row;
    (void)index;
    c->value += (uint32_t)count;
    for (; out < end; at += 4u * bits) {
        uint32_t v = k_fours(stream, at);
        if (end - out < 4) {
            for (; out < end; v >>= bits)
                *out++ = table[v & mask];
            return;
        }
        out[0] = table[v & mask];
        v >>= bits;
        out[1] = table[v & mask];
        v >>= bits;
        out[2] = table[v & mask];
        v >>= bits;
        out[3] = table[v & mask];
        out += 4;
    }
}

/* A layer whose weights are decoded, l->tile duos at a time, to `words`. `rows`: scratch for two rows; index, stored: for what a row of them
 * stores, or NULL; the rest: as where they lie in place. An odd number of channels has its last but one twice. */
static k_once void k_duos_coded_i8(const int8_t *x, int8_t *y, const k_layer *l, const k_duo_weight *w, const k_weight *coded,
                                   int32_t *column, int8_t *edge, int32_t *words, int8_t *rows, k_index *index, int8_t *stored)
{
    const int32_t outputs = l->o / l->groups, each = (outputs + 1) / 2, inputs = coded->inputs, size = w->fours * 2;
    k_cursor cursor = k_start();
    int32_t group, duo, n, j, row = 0;
    for (group = 0; group < l->groups; group++)
        for (duo = 0; duo < each; duo += n) {
            n = each - duo < l->tile ? each - duo : l->tile;
            for (j = 0; j < n; j++) {
                if (2 * (duo + j) + 1 == outputs)
                    memcpy(rows, rows + inputs, (size_t)inputs);
                else
                    k_row_codes(coded, &cursor, row++, index, stored, rows);
                k_row_codes(coded, &cursor, row++, index, stored, rows + inputs);
                k_duo_words(rows, rows + inputs, inputs, w->length, words + j * size);
            }
            k_duos_of(x, y, l, w, group, duo, n, words, column, edge);
        }
}
