/* Weights as they lie in read-only memory, and the decoders that read one output channel (a row) of them.
 *
 * Two decoders make a weight: `where` lists which inputs of the row are stored, `codes` or `reals` reads their values.
 * Rows are read in order; the cursor remembers where both streams stand, and the decoders move it. */

#include <stdint.h>
#include <string.h>

typedef uint16_t k_index; /* replaced by the exporter: wide enough for the longest row */

/* Where the next row begins. `row_where` and `row_block` are those of the current row of blocks, which several rows share. */
typedef struct {
    uint32_t value;     /* values read so far; bits of them, where they are Huffman codes */
    uint32_t where;     /* bits (or bytes) of the support stream read so far */
    int32_t block;      /* gaps: the next stored block, counted from the start of this row of blocks; −1: none read yet */
    uint32_t row_where;
    int32_t row_block;
} k_cursor;

/* A cursor at the first row. */
static k_cursor k_start(void)
{
    const k_cursor c = {0, 0, -1, 0, -1};
    return c;
}

/* One weight. Unused fields are zero. */
typedef struct k_weight k_weight;
struct k_weight {
    const void *values;     /* the stream of values: floats, bytes, or packed numbers of `bits` bits */
    const uint8_t *support; /* the stream of positions */
    int32_t (*where)(const k_weight *w, k_cursor *c, int32_t row, k_index *index); /* NULL: every input is stored */
    void (*codes)(const k_weight *w, k_cursor *c, int32_t row, int32_t count, const k_index *index, int8_t *out);
    void (*reals)(const k_weight *w, k_cursor *c, int32_t row, int32_t count, const k_index *index, float *out);
    const void *table;      /* codebook [entries]: int8 or float */
    const uint8_t *book;    /* Huffman codes of the values: lengths, then symbols */
    const uint8_t *gaps;    /* Huffman codes of the support */
    const int16_t *zero;    /* [rows × groups], subtracted from each code */
    const float *scale;     /* [rows × groups] */
    const float *negative;  /* [rows]: the scale of a ternary weight's −1 */
    int32_t inputs;         /* weights in a row */
    int32_t bits;           /* of one packed value */
    int32_t step, offset;   /* code = step · packed − offset */
    int32_t group, groups;  /* inputs that share a scale, and how many such groups a row has (1: no groups) */
    int32_t block_rows, block_columns;
    int32_t where_bits;     /* of one gap, or of one position in a run */
    int32_t stored, run;    /* n:m: `stored` of `run` inputs */
};

/* A number of 1 … 8 bits, `at` bits into a stream (least significant bit first; the stream ends with a spare byte). */
static uint32_t k_bits(const uint8_t *stream, uint32_t at, int32_t bits)
{
    const uint8_t *p = stream + (at >> 3);
    return ((((uint32_t)p[1] << 8) | p[0]) >> (at & 7u)) & ((1u << bits) - 1u);
}

/* The next symbol of a stream of canonical Huffman codes, most significant bit first. `book`: how many codes have 1 … 15 bits, then the
 * symbols, in the order of their codes. A code is complete when it is less than `count` beyond the first of its length. */
static uint32_t k_symbol(const uint8_t *stream, uint32_t *at, const uint8_t *book)
{
    const uint8_t *symbols = book + 15;
    uint32_t place = *at, beyond = 0;
    int32_t length;
    for (length = 0; length < 15; length++) {
        const uint32_t count = book[length];
        beyond = beyond << 1 | (((uint32_t)stream[place >> 3] >> (7u - (place & 7u))) & 1u);
        place++;
        if (beyond < count) {
            *at = place;
            return symbols[beyond];
        }
        beyond -= count;
        symbols += count;
    }
    *at = place;
    return 0;
}

/* Which row of scales and zero points a weight uses. */
static int32_t k_group(const k_weight *w, int32_t row, int32_t place, const k_index *index)
{
    return w->groups > 1 ? row * w->groups + (index ? (int32_t)index[place] : place) / w->group : row;
}

/* ── Support: the positions of a row's stored weights, ascending; returns how many ───────────────────────────────────── */

/* The inputs that a stored block covers; the last block of a row may be cut off. */
static int32_t k_block(const k_weight *w, int32_t block, int32_t count, k_index *index)
{
    int32_t i, start = block * w->block_columns, stop = start + w->block_columns;
    for (i = start; i < stop && i < w->inputs; i++)
        index[count++] = (k_index)i;
    return count;
}

/* Bitmask: one bit for each block; every row of blocks begins with a new byte. */
static int32_t k_where_bitmask(const k_weight *w, k_cursor *c, int32_t row, k_index *index)
{
    const int32_t blocks = (w->inputs + w->block_columns - 1) / w->block_columns, bytes = (blocks + 7) / 8;
    const uint8_t *mask = w->support + (uint32_t)(row / w->block_rows) * (uint32_t)bytes;
    int32_t i, j, count = 0;
    (void)c;
    for (i = 0; i < bytes; i++) {
        uint32_t byte = mask[i];
        for (j = 8 * i; byte; byte >>= 1, j++)
            if (byte & 1u)
                count = k_block(w, j, count, index);
    }
    return count;
}

/* Gaps: from one stored block to the next; the largest code says "that far, and nothing there". */
static int32_t k_where_gaps(const k_weight *w, k_cursor *c, int32_t row, k_index *index)
{
    const int32_t columns = w->block_columns, blocks = (w->inputs + columns - 1) / columns, bits = w->where_bits;
    const uint32_t escape = (1u << bits) - 1u;
    const uint8_t *support = w->support;
    uint32_t where, gap;
    int32_t block, count = 0;
    if (row % w->block_rows == 0) {
        c->row_where = c->where;
        c->row_block = c->block;
    }
    where = c->row_where;
    block = c->row_block;
    while (block < blocks) {
        if (block >= 0 && columns == 1)
            index[count++] = (k_index)block;
        else if (block >= 0)
            count = k_block(w, block, count, index);
        do {
            gap = k_bits(support, where, bits);
            where += (uint32_t)bits;
            block += (int32_t)gap;
        } while (gap == escape);
        block++;
    }
    c->where = where;
    c->block = block - blocks;
    return count;
}

/* Gaps as Huffman codes; 255 says "that far, and nothing there". Single weights only. */
static int32_t k_where_huffman(const k_weight *w, k_cursor *c, int32_t row, k_index *index)
{
    int32_t block = c->block, count = 0;
    uint32_t gap;
    (void)row;
    while (block < w->inputs) {
        if (block >= 0)
            index[count++] = (k_index)block;
        do {
            gap = k_symbol(w->support, &c->where, w->gaps);
            block += (int32_t)gap;
        } while (gap == 255u);
        block++;
    }
    c->block = block - w->inputs;
    return count;
}

/* n:m: in each run of m inputs exactly n are stored; a position takes `where_bits` bits. */
static int32_t k_where_runs(const k_weight *w, k_cursor *c, int32_t row, k_index *index)
{
    int32_t i, j, count = 0;
    (void)row;
    for (i = 0; i < w->inputs; i += w->run)
        for (j = 0; j < w->stored; j++) {
            index[count++] = (k_index)(i + (int32_t)k_bits(w->support, c->where, w->where_bits));
            c->where += (uint32_t)w->where_bits;
        }
    return count;
}

/* ── Values, as integers ─────────────────────────────────────────────────────────────────────────────────────────────── */

/* int8 codes, a byte each. */
static void k_codes_bytes(const k_weight *w, k_cursor *c, int32_t row, int32_t count, const k_index *index, int8_t *out)
{
    (void)row;
    (void)index;
    memcpy(out, (const int8_t *)w->values + c->value, (size_t)count);
    c->value += (uint32_t)count;
}

/* Eight numbers of 1 … 7 bits each, in a word. */
static uint64_t k_eight(const uint8_t *stream, uint32_t at, int32_t bits)
{
    const uint8_t *p = stream + (at >> 3);
    uint64_t word = 0;
    int32_t i;
    for (i = 0; i <= bits; i++)
        word |= (uint64_t)p[i] << (8 * i);
    return word >> (at & 7u);
}

/* Affine codes of fewer bits, signs, ternary codes. */
static void k_codes_packed(const k_weight *w, k_cursor *c, int32_t row, int32_t count, const k_index *index, int8_t *out)
{
    const uint32_t bits = (uint32_t)w->bits, at = c->value, mask = (1u << bits) - 1u;
    const int32_t step = w->step, offset = w->offset;
    int32_t i, j;
    c->value += (uint32_t)count;
    for (i = 0; i + 8 <= count; i += 8) {
        const uint64_t word = k_eight((const uint8_t *)w->values, (at + (uint32_t)i) * bits, w->bits);
        for (j = 0; j < 8; j++)
            out[i + j] = (int8_t)(step * (int32_t)((uint32_t)(word >> ((uint32_t)j * bits)) & mask) - offset);
    }
    for (; i < count; i++)
        out[i] = (int8_t)(step * (int32_t)k_bits((const uint8_t *)w->values, (at + (uint32_t)i) * bits, w->bits) - offset);
    for (i = 0; w->zero && i < count; i++)
        out[i] = (int8_t)(out[i] - w->zero[k_group(w, row, i, index)]);
}

/* Indices into a codebook of int8. */
static void k_codes_table(const k_weight *w, k_cursor *c, int32_t row, int32_t count, const k_index *index, int8_t *out)
{
    const uint32_t bits = (uint32_t)w->bits, at = c->value;
    int32_t i;
    (void)row;
    (void)index;
    c->value += (uint32_t)count;
    for (i = 0; i < count; i++)
        out[i] = ((const int8_t *)w->table)[k_bits((const uint8_t *)w->values, (at + (uint32_t)i) * bits, w->bits)];
}

/* The same as Huffman codes. */
static void k_codes_huffman(const k_weight *w, k_cursor *c, int32_t row, int32_t count, const k_index *index, int8_t *out)
{
    int32_t i;
    (void)row;
    (void)index;
    for (i = 0; i < count; i++)
        out[i] = ((const int8_t *)w->table)[k_symbol((const uint8_t *)w->values, &c->value, w->book)];
}

/* ── Values, as floats ───────────────────────────────────────────────────────────────────────────────────────────────── */

/* Plain floats. */
static void k_reals_plain(const k_weight *w, k_cursor *c, int32_t row, int32_t count, const k_index *index, float *out)
{
    (void)row;
    (void)index;
    memcpy(out, (const float *)w->values + c->value, (size_t)count * sizeof(float));
    c->value += (uint32_t)count;
}

/* Affine codes and signs. */
static void k_reals_packed(const k_weight *w, k_cursor *c, int32_t row, int32_t count, const k_index *index, float *out)
{
    const uint32_t bits = (uint32_t)w->bits, at = c->value;
    int32_t i;
    c->value += (uint32_t)count;
    for (i = 0; i < count; i++) {
        const int32_t group = k_group(w, row, i, index);
        int32_t code = w->step * (int32_t)k_bits((const uint8_t *)w->values, (at + (uint32_t)i) * bits, w->bits) - w->offset;
        if (w->zero)
            code -= w->zero[group];
        out[i] = (float)code * w->scale[group];
    }
}

/* Ternary codes 0, 1, 2 for −negative, 0, +scale. */
static void k_reals_ternary(const k_weight *w, k_cursor *c, int32_t row, int32_t count, const k_index *index, float *out)
{
    const uint32_t at = c->value;
    int32_t i;
    (void)index;
    c->value += (uint32_t)count;
    for (i = 0; i < count; i++) {
        const uint32_t code = k_bits((const uint8_t *)w->values, (at + (uint32_t)i) * 2u, 2);
        out[i] = code > 1u ? w->scale[row] : code == 1u ? 0.0f : -w->negative[row];
    }
}

/* Indices into a codebook of floats. */
static void k_reals_table(const k_weight *w, k_cursor *c, int32_t row, int32_t count, const k_index *index, float *out)
{
    const uint32_t bits = (uint32_t)w->bits, at = c->value;
    int32_t i;
    (void)index;
    c->value += (uint32_t)count;
    for (i = 0; i < count; i++)
        out[i] = ((const float *)w->table)[k_bits((const uint8_t *)w->values, (at + (uint32_t)i) * bits, w->bits)] * w->scale[row];
}

/* The same as Huffman codes. */
static void k_reals_huffman(const k_weight *w, k_cursor *c, int32_t row, int32_t count, const k_index *index, float *out)
{
    int32_t i;
    (void)index;
    for (i = 0; i < count; i++)
        out[i] = ((const float *)w->table)[k_symbol((const uint8_t *)w->values, &c->value, w->book)] * w->scale[row];
}

/* ── Rows ────────────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* The stored weights of the next row as a list: `index` and `out` get `count` entries. */
static int32_t k_list_codes(const k_weight *w, k_cursor *c, int32_t row, k_index *index, int8_t *out)
{
    const int32_t count = w->where(w, c, row, index);
    w->codes(w, c, row, count, index, out);
    return count;
}

/* The same with floats. */
static int32_t k_list_reals(const k_weight *w, k_cursor *c, int32_t row, k_index *index, float *out)
{
    const int32_t count = w->where(w, c, row, index);
    w->reals(w, c, row, count, index, out);
    return count;
}

/* The next row in full; `index` and `stored` are scratch for the stored weights (NULL where all are). */
static void k_row_codes(const k_weight *w, k_cursor *c, int32_t row, k_index *index, int8_t *stored, int8_t *out)
{
    int32_t i, count;
    if (!w->where) {
        w->codes(w, c, row, w->inputs, NULL, out);
        return;
    }
    count = w->where(w, c, row, index);
    w->codes(w, c, row, count, index, stored);
    memset(out, 0, (size_t)w->inputs);
    for (i = 0; i < count; i++)
        out[index[i]] = stored[i];
}

/* The same with floats. */
static void k_row_reals(const k_weight *w, k_cursor *c, int32_t row, k_index *index, float *stored, float *out)
{
    int32_t i, count;
    if (!w->where) {
        w->reals(w, c, row, w->inputs, NULL, out);
        return;
    }
    count = w->where(w, c, row, index);
    w->reals(w, c, row, count, index, stored);
    for (i = 0; i < w->inputs; i++)
        out[i] = 0.0f;
    for (i = 0; i < count; i++)
        out[index[i]] = stored[i];
}
