/* Float layers: float in, float out; weights of any kind, decoded to floats row by row. */

#include <stdint.h>

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
static void k_patch_f32(const float *x, const k_layer *l, int32_t oy, int32_t ox, int32_t group, float *patch)
{
    const int32_t width = l->c / l->groups, left = ox * l->sx - l->left;
    int32_t ky, kx, i;
    for (ky = 0; ky < l->kh; ky++) {
        const int32_t iy = oy * l->sy - l->top + ky * l->dy;
        for (kx = 0; kx < l->kw; kx++) {
            const int32_t ix = left + kx * l->dx, inside = iy >= 0 && iy < l->h && ix >= 0 && ix < l->w;
            const float *pixel = x + (inside ? (iy * l->w + ix) * l->c + group * width : 0);
            for (i = 0; i < width; i++)
                *patch++ = inside ? pixel[i] : 0.0f;
        }
    }
}

/* The same for a transposed convolution: the input pixels that reach output pixel (oy, ox), zeros where none does. */
static void k_patch_back_f32(const float *x, const k_layer *l, int32_t oy, int32_t ox, int32_t group, float *patch)
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
static float k_dot_f32(const float *a, const float *b, int32_t n)
{
    float part[16] = {0.0f}, sum = 0.0f;
    int32_t i, j;
    for (i = 0; i + 16 <= n; i += 16)
        for (j = 0; j < 16; j++)
            part[j] += a[i + j] * b[i + j];
    for (; i < n; i++)
        sum += a[i] * b[i];
    for (j = 0; j < 16; j++)
        sum += part[j];
    return sum;
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

/* Rows in full. `patch_of` is one of the two above. `rows`: scratch for `tile` of them, or NULL where the weights can be read in place. */
static void k_dense_f32(const float *x, float *y, const k_layer *l, const k_weight *w, const k_finish *f,
                        void (*patch_of)(const float *, const k_layer *, int32_t, int32_t, int32_t, float *), float *patch, float *rows,
                        k_index *index, float *stored)
{
    const int32_t outputs = l->o / l->groups;
    k_cursor cursor = k_start();
    int32_t first, n, j, oy, ox;
    for (first = 0; first < l->o; first += n) {
        const int32_t group = first / outputs, left = (group + 1) * outputs - first;
        const float *tile = rows ? rows : (const float *)w->values + first * w->inputs;
        n = left < l->tile ? left : l->tile;
        for (j = 0; rows && j < n; j++)
            k_row_reals(w, &cursor, first + j, index, stored, rows + j * w->inputs);
        for (oy = 0; oy < l->oh; oy++)
            for (ox = 0; ox < l->ow; ox++) {
                float *pixel = y + (oy * l->ow + ox) * l->o + first;
                if (l->oh * l->ow > 1 || first % outputs == 0)
                    patch_of(x, l, oy, ox, group, patch);
                for (j = 0; j < n; j++)
                    pixel[j] = k_finished(f, first + j, k_dot_f32(patch, tile + j * w->inputs, w->inputs));
            }
    }
}

/* Rows as lists of what is stored. */
static void k_sparse_f32(const float *x, float *y, const k_layer *l, const k_weight *w, const k_finish *f,
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
static void k_depthwise_f32(const float *x, float *y, const k_layer *l, const float *taps, const k_finish *f)
{
    int32_t oy, ox, ky, kx, c, from, to;
    for (oy = 0; oy < l->oh; oy++)
        for (ox = 0; ox < l->ow; ox++, y += l->c) {
            const int32_t left = ox * l->sx - l->left;
            k_taps(left, l->dx, l->kw, l->w, &from, &to);
            for (c = 0; c < l->c; c++)
                y[c] = 0.0f;
            for (ky = 0; ky < l->kh; ky++) {
                const int32_t iy = oy * l->sy - l->top + ky * l->dy;
                for (kx = from; kx < to && iy >= 0 && iy < l->h; kx++) {
                    const float *pixel = x + (iy * l->w + left + kx * l->dx) * l->c, *tap = taps + (ky * l->kw + kx) * l->c;
                    for (c = 0; c < l->c; c++)
                        y[c] += pixel[c] * tap[c];
                }
            }
            for (c = 0; c < l->c; c++)
                y[c] = k_finished(f, c, y[c]);
        }
}
