/* Sums, extremes and pools. */

#include <stdint.h>
#include <string.h>

/* Adds code − zero point into sums; strides a of x, b of the sums (0 along a reduced axis). */
static void k_sum_i8(const int8_t *x, int32_t *sums, const k_axis *axis, int32_t axes, int32_t zero)
{
    int32_t i;
    for (i = 0; i < axis->count; i++) {
        if (axes > 1)
            k_sum_i8(x + i * axis->a, sums + i * axis->b, axis + 1, axes - 1, zero);
        else
            sums[i * axis->b] += x[i * axis->a] - zero;
    }
}

/* The mean over some axes. `sums`: scratch [count]. */
static void k_mean_i8(const int8_t *x, int8_t *y, int32_t *sums, int32_t count, const k_axis *axis, int32_t axes, const k_requant *q)
{
    int32_t i;
    memset(sums, 0, (size_t)count * sizeof(int32_t));
    k_sum_i8(x, sums, axis, axes, q->zero);
    for (i = 0; i < count; i++)
        y[i] = k_requantize(q, 0, (int64_t)sums[i] * q->multiplier[0]);
}

/* Adds x into y, which the caller has cleared. */
static void k_sum_f32(const float *x, float *y, const k_axis *axis, int32_t axes)
{
    int32_t i;
    for (i = 0; i < axis->count; i++) {
        if (axes > 1)
            k_sum_f32(x + i * axis->a, y + i * axis->b, axis + 1, axes - 1);
        else
            y[i * axis->b] += x[i * axis->a];
    }
}

/* The greatest, or with sign = −1 the least; y starts at −sign · infinity. */
static void k_extreme_f32(const float *x, float *y, const k_axis *axis, int32_t axes, float sign)
{
    int32_t i;
    for (i = 0; i < axis->count; i++) {
        if (axes > 1)
            k_extreme_f32(x + i * axis->a, y + i * axis->b, axis + 1, axes - 1, sign);
        else if (x[i * axis->a] * sign > y[i * axis->b] * sign)
            y[i * axis->b] = x[i * axis->a];
    }
}

/* From sums to means. */
static void k_scale_f32(float *y, int32_t count, float factor, float low, float high)
{
    int32_t i;
    for (i = 0; i < count; i++)
        y[i] = k_between(y[i] * factor, low, high);
}

/* The greatest code under each window; padding never wins. */
static void k_max_pool_i8(const int8_t *restrict x, int8_t *restrict y, const k_layer *l)
{
    const int32_t channels = l->c, w = l->w;
    int32_t oy, ox, iy, ix, c, y0, y1, x0, x1;
    for (oy = 0; oy < l->oh; oy++)
        for (ox = 0; ox < l->ow; ox++, y += channels) {
            const int32_t top = oy * l->sy - l->top, left = ox * l->sx - l->left;
            k_taps(top, 1, l->kh, l->h, &y0, &y1);
            k_taps(left, 1, l->kw, w, &x0, &x1);
            memset(y, -128, (size_t)channels);
            for (iy = top + y0; iy < top + y1; iy++)
                for (ix = left + x0; ix < left + x1; ix++) {
                    const int8_t *pixel = x + (iy * w + ix) * channels;
                    for (c = 0; c < channels; c++)
                        y[c] = pixel[c] > y[c] ? pixel[c] : y[c];
                }
        }
}

/* The same on floats. */
static void k_max_pool_f32(const float *restrict x, float *restrict y, const k_layer *l)
{
    const int32_t channels = l->c, w = l->w;
    int32_t oy, ox, iy, ix, c, y0, y1, x0, x1;
    for (oy = 0; oy < l->oh; oy++)
        for (ox = 0; ox < l->ow; ox++, y += channels) {
            const int32_t top = oy * l->sy - l->top, left = ox * l->sx - l->left;
            k_taps(top, 1, l->kh, l->h, &y0, &y1);
            k_taps(left, 1, l->kw, w, &x0, &x1);
            for (c = 0; c < channels; c++)
                y[c] = x[((top + y0) * w + left + x0) * channels + c];
            for (iy = top + y0; iy < top + y1; iy++)
                for (ix = left + x0; ix < left + x1; ix++) {
                    const float *pixel = x + (iy * w + ix) * channels;
                    for (c = 0; c < channels; c++)
                        y[c] = pixel[c] > y[c] ? pixel[c] : y[c];
                }
        }
}

/* The mean under each window; `counted`: the numbers of `q` are looked up by the count of real pixels. `sums`: scratch [channels]. */
static void k_avg_pool_i8(const int8_t *restrict x, int8_t *restrict y, const k_layer *l, const k_requant *q, int32_t counted, int32_t *restrict sums)
{
    const int32_t channels = l->c, w = l->w, zero = q->zero;
    int32_t oy, ox, iy, ix, c, y0, y1, x0, x1;
    for (oy = 0; oy < l->oh; oy++)
        for (ox = 0; ox < l->ow; ox++) {
            const int32_t top = oy * l->sy - l->top, left = ox * l->sx - l->left;
            int32_t entry;
            k_taps(top, 1, l->kh, l->h, &y0, &y1);
            k_taps(left, 1, l->kw, w, &x0, &x1);
            entry = counted ? (y1 - y0) * (x1 - x0) - 1 : 0;
            memset(sums, 0, (size_t)channels * sizeof(int32_t));
            for (iy = top + y0; iy < top + y1; iy++)
                for (ix = left + x0; ix < left + x1; ix++) {
                    const int8_t *pixel = x + (iy * w + ix) * channels;
                    for (c = 0; c < channels; c++)
                        sums[c] += pixel[c] - zero;
                }
            for (c = 0; c < channels; c++)
                *y++ = k_requantize(q, entry, (int64_t)sums[c] * q->multiplier[entry]);
        }
}

/* The same on floats; `counted`: padding is left out of the count. */
static void k_avg_pool_f32(const float *restrict x, float *restrict y, const k_layer *l, int32_t counted, float low, float high)
{
    const int32_t channels = l->c, w = l->w;
    int32_t oy, ox, iy, ix, c, y0, y1, x0, x1;
    for (oy = 0; oy < l->oh; oy++)
        for (ox = 0; ox < l->ow; ox++, y += channels) {
            const int32_t top = oy * l->sy - l->top, left = ox * l->sx - l->left;
            float factor;
            k_taps(top, 1, l->kh, l->h, &y0, &y1);
            k_taps(left, 1, l->kw, w, &x0, &x1);
            factor = 1.0f / (float)(counted ? (y1 - y0) * (x1 - x0) : l->kh * l->kw);
            for (c = 0; c < channels; c++)
                y[c] = 0.0f;
            for (iy = top + y0; iy < top + y1; iy++)
                for (ix = left + x0; ix < left + x1; ix++) {
                    const float *pixel = x + (iy * w + ix) * channels;
                    for (c = 0; c < channels; c++)
                        y[c] += pixel[c];
                }
            for (c = 0; c < channels; c++)
                y[c] = k_between(y[c] * factor, low, high);
        }
}
