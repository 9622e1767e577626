/* Element by element: between floats and integers, sums and products with broadcasting, clamps. */

#include <stdint.h>

/* Float to code: divide, clamp, round half to even; the clamp comes first, so the conversion is defined for every input (NaN → low). */
static void k_quantize(const float *x, int8_t *y, int32_t count, float scale, int32_t zero, int32_t low, int32_t high)
{
    int32_t i;
    for (i = 0; i < count; i++) {
        float v = x[i] / scale, part;
        int32_t code;
        v = v > (float)(low - zero) ? v : (float)(low - zero);
        v = v < (float)(high - zero) ? v : (float)(high - zero);
        code = (int32_t)v;
        part = v - (float)code;
        if (part > 0.5f || (part == 0.5f && code % 2 != 0))
            code++;
        else if (part < -0.5f || (part == -0.5f && code % 2 != 0))
            code--;
        y[i] = (int8_t)(code + zero);
    }
}

/* Code to float. */
static void k_dequantize(const int8_t *x, float *y, int32_t count, float scale, int32_t zero)
{
    int32_t i;
    for (i = 0; i < count; i++)
        y[i] = (float)(x[i] - zero) * scale;
}

/* Between two codes. */
static void k_clamp_i8(const int8_t *x, int8_t *y, int32_t count, int32_t low, int32_t high)
{
    int32_t i;
    for (i = 0; i < count; i++)
        y[i] = (int8_t)(x[i] < low ? low : x[i] > high ? high : x[i]);
}

/* Between two reals; a NaN stays one. */
static float k_between(float v, float low, float high)
{
    return v < low ? low : v > high ? high : v;
}

/* Between two reals. */
static void k_clamp_f32(const float *x, float *y, int32_t count, float low, float high)
{
    int32_t i;
    for (i = 0; i < count; i++)
        y[i] = k_between(x[i], low, high);
}

/* x · scale[c] + bias[c]. */
static void k_affine_f32(const float *x, float *y, int32_t pixels, int32_t channels, const float *scale, const float *bias, float low,
                         float high)
{
    int32_t i, c;
    for (i = 0; i < pixels; i++)
        for (c = 0; c < channels; c++)
            *y++ = k_between(*x++ * scale[c] + bias[c], low, high);
}

/* The same from pixels. */
static void k_affine_u8(const uint8_t *x, float *y, int32_t pixels, int32_t channels, const float *scale, const float *bias, float low,
                        float high)
{
    int32_t i, c;
    for (i = 0; i < pixels; i++)
        for (c = 0; c < channels; c++)
            *y++ = k_between((float)*x++ * scale[c] + bias[c], low, high);
}

/* What an integer sum or product needs. A sum: y = (a·ma + b·mb + bias) >> shift; a product: y = ((a−ma)·(b−mb)·multiplier + bias) >> shift. */
typedef struct {
    int32_t ma, mb, multiplier;
    int64_t bias;
    int32_t shift, low, high;
} k_pair;

/* Codes plus codes; every step fits in 32 bits. */
static int8_t *k_add_i8(const int8_t *a, const int8_t *b, int8_t *y, const k_axis *axis, int32_t axes, const k_pair *p)
{
    int32_t i;
    if (axes > 1) {
        for (i = 0; i < axis->count; i++)
            y = k_add_i8(a + i * axis->a, b + i * axis->b, y, axis + 1, axes - 1, p);
        return y;
    }
    for (i = 0; i < axis->count; i++) {
        const int32_t v = (a[i * axis->a] * p->ma + b[i * axis->b] * p->mb + (int32_t)p->bias) >> p->shift;
        *y++ = (int8_t)(v < p->low ? p->low : v > p->high ? p->high : v);
    }
    return y;
}

/* Codes times codes. */
static int8_t *k_mul_i8(const int8_t *a, const int8_t *b, int8_t *y, const k_axis *axis, int32_t axes, const k_pair *p)
{
    int32_t i;
    if (axes > 1) {
        for (i = 0; i < axis->count; i++)
            y = k_mul_i8(a + i * axis->a, b + i * axis->b, y, axis + 1, axes - 1, p);
        return y;
    }
    for (i = 0; i < axis->count; i++) {
        const int64_t product = (int64_t)((a[i * axis->a] - p->ma) * (b[i * axis->b] - p->mb)) * p->multiplier;
        const int64_t v = (product + p->bias) >> p->shift;
        *y++ = (int8_t)(v < p->low ? p->low : v > p->high ? p->high : v);
    }
    return y;
}

/* One row of a float operation of two operands; `sa` and `sb` are strides. */
typedef void k_operation(const float *a, int32_t sa, const float *b, int32_t sb, float *y, int32_t count, float low, float high);

/* A row of sums. */
static void k_add_f32(const float *a, int32_t sa, const float *b, int32_t sb, float *y, int32_t count, float low, float high)
{
    int32_t i;
    for (i = 0; i < count; i++)
        y[i] = k_between(a[i * sa] + b[i * sb], low, high);
}

/* A row of differences. */
static void k_sub_f32(const float *a, int32_t sa, const float *b, int32_t sb, float *y, int32_t count, float low, float high)
{
    int32_t i;
    for (i = 0; i < count; i++)
        y[i] = k_between(a[i * sa] - b[i * sb], low, high);
}

/* A row of products. */
static void k_mul_f32(const float *a, int32_t sa, const float *b, int32_t sb, float *y, int32_t count, float low, float high)
{
    int32_t i;
    for (i = 0; i < count; i++)
        y[i] = k_between(a[i * sa] * b[i * sb], low, high);
}

/* A row of quotients. */
static void k_div_f32(const float *a, int32_t sa, const float *b, int32_t sb, float *y, int32_t count, float low, float high)
{
    int32_t i;
    for (i = 0; i < count; i++)
        y[i] = k_between(a[i * sa] / b[i * sb], low, high);
}

/* An operation over all axes, with broadcasting; the result is written in order. */
static float *k_pairs_f32(k_operation *operation, const float *a, const float *b, float *y, const k_axis *axis, int32_t axes, float low,
                          float high)
{
    int32_t i;
    if (axes == 1) {
        operation(a, axis->a, b, axis->b, y, axis->count, low, high);
        return y + axis->count;
    }
    for (i = 0; i < axis->count; i++)
        y = k_pairs_f32(operation, a + i * axis->a, b + i * axis->b, y, axis + 1, axes - 1, low, high);
    return y;
}
