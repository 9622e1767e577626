/* Integer layers: int8 in, int8 out. */

#include <stdint.h>
#include <string.h>

/* The patch of output pixel (oy, ox) for one group of channels, as code − zero point. */
static k_once void k_patch_i8(const int8_t *x, const k_layer *l, int32_t zero, int32_t oy, int32_t ox, int32_t group, int16_t *patch)
{
    const int32_t width = l->c / l->groups, channels = l->c, kw = l->kw, step = l->dx;
    const int32_t left = ox * l->sx - l->left, whole = step == 1 && l->groups == 1;
    int32_t ky, kx, i, from, to;
    k_taps(left, step, kw, l->w, &from, &to);
    for (ky = 0; ky < l->kh; ky++) {
        const int32_t iy = oy * l->sy - l->top + ky * l->dy, inside = iy >= 0 && iy < l->h;
        const int32_t first = inside ? from : 0, last = inside ? to : 0;
        const int32_t line = (iy * l->w + left) * channels + group * width; /* tap 0, which may lie outside */
        const int32_t pieces = whole ? first < last : last - first, length = whole ? (last - first) * width : width;
        for (i = 0; i < first * width; i++)
            *patch++ = 0;
        for (kx = first; kx < first + pieces; kx++) {
            const int8_t *pixel = x + (line + kx * step * channels);
            for (i = 0; i < length; i++)
                patch[i] = (int16_t)(pixel[i] - zero);
            patch += length;
        }
        for (i = 0; i < (kw - last) * width; i++)
            *patch++ = 0;
    }
}

/* Σ patch · row over all inputs. */
static int32_t k_dot_i8(const int16_t *patch, const int8_t *row, int32_t n)
{
    int32_t i, sum = 0;
    for (i = 0; i < n; i++)
        sum += patch[i] * row[i];
    return sum;
}

/* The same for four rows at once, so that the patch is read once; most of the time of an integer network is spent here. */
static void k_dots_i8(const int16_t *restrict patch, const int8_t *restrict row, int32_t stride, int32_t sums[4])
{
    const int8_t *restrict second = row + stride, *restrict third = second + stride, *restrict fourth = third + stride;
    int32_t i, a = 0, b = 0, c = 0, d = 0;
    for (i = 0; i < stride; i++) {
        a += patch[i] * row[i];
        b += patch[i] * second[i];
        c += patch[i] * third[i];
        d += patch[i] * fourth[i];
    }
    sums[0] = a;
    sums[1] = b;
    sums[2] = c;
    sums[3] = d;
}

/* Σ patch · row over the stored inputs. */
static int32_t k_gather_i8(const int16_t *patch, const k_index *index, const int8_t *stored, int32_t n)
{
    int32_t i, sum = 0;
    for (i = 0; i < n; i++)
        sum += patch[index[i]] * stored[i];
    return sum;
}

/* One output pixel: its patch against `n` rows of a tile, of which the first makes output channel `first`. */
static void k_pixel_i8(const int16_t *patch, const int8_t *tile, int32_t stride, int32_t first, int32_t n, const k_requant *q, int8_t *y)
{
    const int32_t *multiplier = q->multiplier + first;
    int32_t sums[4], j, k;
    for (j = 0; j + 4 <= n; j += 4) {
        k_dots_i8(patch, tile + j * stride, stride, sums);
        for (k = 0; k < 4; k++)
            y[j + k] = k_requantize(q, first + j + k, (int64_t)sums[k] * multiplier[j + k]);
    }
    for (; j < n; j++)
        y[j] = k_requantize(q, first + j, (int64_t)k_dot_i8(patch, tile + j * stride, stride) * multiplier[j]);
}

/* Rows in full. `rows`: scratch for `tile` of them, or NULL where the weights can be read in place. `patch`: scratch [stride]. */
static k_once void k_dense_i8(const int8_t *x, int8_t *y, const k_layer *l, const k_weight *w, const k_requant *q, int16_t *patch,
                              int8_t *rows, k_index *index, int8_t *stored)
{
    const int32_t outputs = l->o / l->groups, inputs = w->inputs, stride = l->stride, height = l->oh, width = l->ow;
    k_cursor cursor = k_start();
    int32_t first, n, j, oy, ox;
    memset(patch + inputs, 0, (size_t)(stride - inputs) * sizeof(int16_t));
    for (first = 0; first < l->o; first += n) {
        const int32_t group = first / outputs, left = (group + 1) * outputs - first;
        const int8_t *tile = rows ? rows : (const int8_t *)w->values + first * inputs;
        n = left < l->tile ? left : l->tile;
        for (j = 0; rows && j < n; j++) {
            k_row_codes(w, &cursor, first + j, index, stored, rows + j * stride);
            memset(rows + j * stride + inputs, 0, (size_t)(stride - inputs));
        }
        for (oy = 0; oy < height; oy++)
            for (ox = 0; ox < width; ox++) {
                if (height * width > 1 || first % outputs == 0)
                    k_patch_i8(x, l, q->zero, oy, ox, group, patch);
                k_pixel_i8(patch, tile, stride, first, n, q, y + (oy * width + ox) * l->o + first);
            }
    }
}

/* Rows as lists of what is stored: time goes with the number of stored weights. */
static k_once void k_sparse_i8(const int8_t *x, int8_t *y, const k_layer *l, const k_weight *w, const k_requant *q, int16_t *patch,
                               k_index *index, int8_t *stored, int32_t *counts)
{
    const int32_t outputs = l->o / l->groups;
    k_cursor cursor = k_start();
    int32_t first, n, j, oy, ox;
    for (first = 0; first < l->o; first += n) {
        const int32_t group = first / outputs, left = (group + 1) * outputs - first;
        n = left < l->tile ? left : l->tile;
        for (j = 0; j < n; j++)
            counts[j] = k_list_codes(w, &cursor, first + j, index + j * l->most, stored + j * l->most);
        for (oy = 0; oy < l->oh; oy++)
            for (ox = 0; ox < l->ow; ox++) {
                int8_t *pixel = y + (oy * l->ow + ox) * l->o + first;
                if (l->oh * l->ow > 1 || first % outputs == 0)
                    k_patch_i8(x, l, q->zero, oy, ox, group, patch);
                for (j = 0; j < n; j++) {
                    const int32_t sum = k_gather_i8(patch, index + j * l->most, stored + j * l->most, counts[j]);
                    pixel[j] = k_requantize(q, first + j, (int64_t)sum * q->multiplier[first + j]);
                }
            }
    }
}

/* Weights that have several multipliers a row, or codes beyond 8 bits: each product gets its own. `terms`: multipliers per row, one for each
 * group, or the two of a ternary weight (group 0). `zero`: [rows × groups] is subtracted from the codes, or NULL. */
static k_once void k_terms_i8(const int8_t *x, int8_t *y, const k_layer *l, const k_weight *w, const k_requant *q, int32_t terms,
                              const int16_t *zero, int16_t *patch, k_index *index, int8_t *stored)
{
    const int32_t outputs = l->o / l->groups;
    k_cursor cursor = k_start();
    int32_t row, i, oy, ox;
    for (row = 0; row < l->o; row++) {
        const k_index *list = w->where ? index : NULL;
        const int32_t count = w->where ? w->where(w, &cursor, row, index) : w->inputs;
        w->codes(w, &cursor, row, count, list, stored);
        for (oy = 0; oy < l->oh; oy++)
            for (ox = 0; ox < l->ow; ox++) {
                int64_t sum = 0;
                k_patch_i8(x, l, q->zero, oy, ox, row / outputs, patch);
                for (i = 0; i < count; i++) {
                    const int32_t k = list ? (int32_t)list[i] : i, group = k_group(w, row, i, list);
                    const int32_t code = zero ? stored[i] - zero[group] : stored[i];
                    const int32_t term = terms == 1 ? row : w->groups > 1 ? group : 2 * row + (code < 0);
                    sum += (int64_t)(patch[k] * (w->groups > 1 || terms == 1 || code > 0 ? code : -code)) * q->multiplier[term];
                }
                y[(oy * l->ow + ox) * l->o + row] = k_requantize(q, row, sum);
            }
    }
}

/* A depthwise layer's weights, decoded and turned round: taps[kh · kw][channels]. */
static void k_turn_i8(const k_layer *l, const k_weight *w, int8_t *taps, k_index *index, int8_t *stored, int8_t *row)
{
    k_cursor cursor = k_start();
    int32_t o, k;
    for (o = 0; o < l->o; o++) {
        k_row_codes(w, &cursor, o, index, stored, row);
        for (k = 0; k < w->inputs; k++)
            taps[k * l->o + o] = row[k];
    }
}

/* One filter for each channel; the innermost loops run along the channels. `sums`: scratch [channels]. */
static k_once void k_depthwise_i8(const int8_t *x, int8_t *y, const k_layer *l, const int8_t *taps, const k_requant *q, int32_t *sums)
{
    const int32_t channels = l->c, zero = q->zero, kw = l->kw, step = l->dx;
    int32_t oy, ox, ky, kx, c, from, to;
    for (oy = 0; oy < l->oh; oy++)
        for (ox = 0; ox < l->ow; ox++, y += channels) {
            const int32_t left = ox * l->sx - l->left;
            k_taps(left, step, kw, l->w, &from, &to);
            memset(sums, 0, (size_t)channels * sizeof(int32_t));
            for (ky = 0; ky < l->kh; ky++) {
                const int32_t iy = oy * l->sy - l->top + ky * l->dy;
                for (kx = from; kx < to && iy >= 0 && iy < l->h; kx++) {
                    const int8_t *pixel = x + (iy * l->w + left + kx * step) * channels, *tap = taps + (ky * kw + kx) * channels;
                    for (c = 0; c < channels; c++)
                        sums[c] += (int16_t)(pixel[c] - zero) * tap[c];
                }
            }
            for (c = 0; c < channels; c++)
                y[c] = k_requantize(q, c, (int64_t)sums[c] * q->multiplier[c]);
        }
}
