/* Float layers: float in, float out; weights of any kind, decoded to floats row by row. */

#include <stdint.h>
#include <string.h>

/* What a float layer adds and clamps with. */
typedef struct {
    const float *bias; /* [rows] or NULL */
    float low, high;
} k_finish;

/* Bias and clamp; a NaN stays one. */
static float k_finished(const k_finish *f, int32_t row, float sum)
{
    const float v = f->bias ? sum + f->bias[row] : sum;
    return v < f->low ? f->low : v > f->high ? f->high : v;
}

/* The patch of output pixel (oy, ox) for one group of channels. */
static k_once void k_patch_f32(const float *x, const k_layer *l, int32_t oy, int32_t ox, int32_t group, float *patch)
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
            *patch++ = 0.0f;
        for (kx = first; kx < first + pieces; kx++) {
            memcpy(patch, x + (line + kx * step * channels), (size_t)length * sizeof(float));
            patch += length;
        }
        for (i = 0; i < (kw - last) * width; i++)
            *patch++ = 0.0f;
    }
}

/* The same for a transposed convolution: the input pixels that reach output pixel (oy, ox), zeros where none does. */
static k_once void k_patch_back_f32(const float *x, const k_layer *l, int32_t oy, int32_t ox, int32_t group, float *patch)
{
    const int32_t width = l->c / l->groups;
    int32_t ky, kx, i;
    for (ky = 0; ky < l->kh; ky++)
        for (kx = 0; kx < l->kw; kx++) {
            const int32_t ty = oy + l->top - ky * l->dy, tx = ox + l->left - kx * l->dx, iy = ty / l->sy, ix = tx / l->sx;
            const int32_t inside = ty >= 0 && tx >= 0 && ty % l->sy == 0 && tx % l->sx == 0 && iy < l->h && ix < l->w;
            const float *pixel = x + (inside ? (iy * l->w + ix) * l->c + group * width : 0);
            for (i = 0; i < width; i++)
                *patch++ = inside ? pixel[i] : 0.0f;
        }
}

/* Σ a · b. Sixteen partial sums, because a compiler may not reorder a sum of floats to use its vectors. */
static float k_dot_f32(const float *restrict a, const float *restrict b, int32_t n)
{
    float part[16] = {0.0f}, sum = 0.0f;
    int32_t i, j;
    for (i = 0; i + 16 <= n; i += 16)
        for (j = 0; j < 16; j++)
            part[j] += a[i + j] * b[i + j];
    for (; i < n; i++)
        sum += a[i] * b[i];
    for (j = 0; j < 8; j++)
        part[j] += part[j + 8];
    for (j = 0; j < 4; j++)
        part[j] += part[j + 4];
    return sum + ((part[0] + part[2]) + (part[1] + part[3]));
}

/* Σ patch · row over the stored inputs. */
static float k_gather_f32(const float *patch, const k_index *index, const float *stored, int32_t n)
{
    float sum = 0.0f;
    int32_t i;
    for (i = 0; i < n; i++)
        sum += patch[index[i]] * stored[i];
    return sum;
}

/* Rows in full. `patch_of` is one of the two above. `rows`: scratch for `tile` of them, or NULL where the weights can be read in place;
 * `patch`: scratch [stride]. */
static k_once void k_dense_f32(const float *x, float *y, const k_layer *l, const k_weight *w, const k_finish *f,
                        void (*patch_of)(const float *, const k_layer *, int32_t, int32_t, int32_t, float *), float *patch, float *rows,
                        k_index *index, float *stored)
{
    const int32_t outputs = l->o / l->groups, inputs = w->inputs, stride = l->stride;
    k_cursor cursor = k_start();
    int32_t first, n, j, oy, ox;
    memset(patch + inputs, 0, (size_t)(stride - inputs) * sizeof(float));
    for (first = 0; first < l->o; first += n) {
        const int32_t group = first / outputs, left = (group + 1) * outputs - first;
        const float *tile = rows ? rows : (const float *)w->values + first * inputs;
        n = left < l->tile ? left : l->tile;
        for (j = 0; rows && j < n; j++) {
            k_row_reals(w, &cursor, first + j, index, stored, rows + j * stride);
            memset(rows + j * stride + inputs, 0, (size_t)(stride - inputs) * sizeof(float));
        }
        for (oy = 0; oy < l->oh; oy++)
            for (ox = 0; ox < l->ow; ox++) {
                float *pixel = y + (oy * l->ow + ox) * l->o + first;
                if (l->oh * l->ow > 1 || first % outputs == 0)
                    patch_of(x, l, oy, ox, group, patch);
                for (j = 0; j < n; j++)
                    pixel[j] = k_finished(f, first + j, k_dot_f32(patch, tile + j * stride, stride));
            }
    }
}

/* Rows as lists of what is stored. */
static k_once void k_sparse_f32(const float *x, float *y, const k_layer *l, const k_weight *w, const k_finish *f,
                         void (*patch_of)(const float *, const k_layer *, int32_t, int32_t, int32_t, float *), float *patch, k_index *index,
                         float *stored, int32_t *counts)
{
    const int32_t outputs = l->o / l->groups;
    k_cursor cursor = k_start();
    int32_t first, n, j, oy, ox;
    for (first = 0; first < l->o; first += n) {
        const int32_t group = first / outputs, left = (group + 1) * outputs - first;
        n = left < l->tile ? left : l->tile;
        for (j = 0; j < n; j++)
            counts[j] = k_list_reals(w, &cursor, first + j, index + j * l->most, stored + j * l->most);
        for (oy = 0; oy < l->oh; oy++)
            for (ox = 0; ox < l->ow; ox++) {
                float *pixel = y + (oy * l->ow + ox) * l->o + first;
                if (l->oh * l->ow > 1 || first % outputs == 0)
                    patch_of(x, l, oy, ox, group, patch);
                for (j = 0; j < n; j++)
                    pixel[j] = k_finished(f, first + j, k_gather_f32(patch, index + j * l->most, stored + j * l->most, counts[j]));
            }
    }
}

/* A depthwise layer's weights, decoded and turned round: taps[kh · kw][channels]. */
static void k_turn_f32(const k_layer *l, const k_weight *w, float *taps, k_index *index, float *stored, float *row)
{
    k_cursor cursor = k_start();
    int32_t o, k;
    for (o = 0; o < l->o; o++) {
        k_row_reals(w, &cursor, o, index, stored, row);
        for (k = 0; k < w->inputs; k++)
            taps[k * l->o + o] = row[k];
    }
}

/* One filter for each channel; the innermost loop runs along the channels. */
static k_once void k_depthwise_f32(const float *restrict x, float *restrict y, const k_layer *l, const float *restrict taps,
                                   const k_finish *f)
{
    const int32_t channels = l->c, kw = l->kw, step = l->dx;
    int32_t oy, ox, ky, kx, c, from, to;
    for (oy = 0; oy < l->oh; oy++)
        for (ox = 0; ox < l->ow; ox++, y += channels) {
            const int32_t left = ox * l->sx - l->left;
            k_taps(left, step, kw, l->w, &from, &to);
            for (c = 0; c < channels; c++)
                y[c] = 0.0f;
            for (ky = 0; ky < l->kh; ky++) {
                const int32_t iy = oy * l->sy - l->top + ky * l->dy;
                for (kx = from; kx < to && iy >= 0 && iy < l->h; kx++) {
                    const float *pixel = x + (iy * l->w + left + kx * step) * channels, *tap = taps + (ky * kw + kx) * channels;
                    for (c = 0; c < channels; c++)
                        y[c] += pixel[c] * tap[c];
                }
            }
            for (c = 0; c < channels; c++)
                y[c] = k_finished(f, c, y[c]);
        }
}
