/* Float operations over an axis: softmax, normalizations, matrix products, bilinear upsampling. */

#include <math.h>
#include <stdint.h>

/* exp(x − max) over its sum along the middle of [outer][count][inner]. */
static void k_softmax(const float *x, float *y, int32_t outer, int32_t count, int32_t inner)
{
    int32_t i, j, k;
    for (i = 0; i < outer * inner; i++) {
        const int32_t start = i / inner * count * inner + i % inner;
        float most = x[start], sum = 0.0f;
        for (j = 1, k = start + inner; j < count; j++, k += inner)
            most = x[k] > most ? x[k] : most;
        for (j = 0, k = start; j < count; j++, k += inner)
            sum += y[k] = expf(x[k] - most);
        for (j = 0, k = start; j < count; j++, k += inner)
            y[k] /= sum;
    }
}

/* Mean 0 and variance 1 over each of [pixels][groups][width] seen as groups: all pixels of a group's channels. A layer norm has one group
 * and one pixel a row. `scale`, `bias`: [groups · width] or NULL. */
static void k_normalise(const float *x, float *y, int32_t pixels, int32_t groups, int32_t width, const float *scale, const float *bias,
                        float eps)
{
    int32_t g, p, c;
    for (g = 0; g < groups; g++) {
        const float *first = x + g * width;
        float mean = 0.0f, square = 0.0f, factor;
        for (p = 0; p < pixels; p++)
            for (c = 0; c < width; c++)
                mean += first[p * groups * width + c];
        mean /= (float)(pixels * width);
        for (p = 0; p < pixels; p++)
            for (c = 0; c < width; c++) {
                const float d = first[p * groups * width + c] - mean;
                square += d * d;
            }
        factor = 1.0f / sqrtf(square / (float)(pixels * width) + eps);
        for (p = 0; p < pixels; p++)
            for (c = 0; c < width; c++) {
                const float v = (first[p * groups * width + c] - mean) * factor;
                y[(p * groups + g) * width + c] = (scale ? v * scale[g * width + c] : v) + (bias ? bias[g * width + c] : 0.0f);
            }
    }
}

/* Over the last `width` values of every row. */
static void k_layer_norm(const float *x, float *y, int32_t rows, int32_t width, const float *scale, const float *bias, float eps)
{
    int32_t i;
    for (i = 0; i < rows; i++)
        k_normalise(x + i * width, y + i * width, 1, 1, width, scale, bias, eps);
}

/* scale · a [m][k] @ b [k][n], or b [n][k] where it is transposed; over all outer axes, with broadcasting. */
static float *k_matmul(const float *a, const float *b, float *y, const k_axis *axis, int32_t axes, int32_t m, int32_t k, int32_t n,
                       int32_t transposed, float scale)
{
    int32_t i, j, p;
    if (axes > 0) {
        for (i = 0; i < axis->count; i++)
            y = k_matmul(a + i * axis->a, b + i * axis->b, y, axis + 1, axes - 1, m, k, n, transposed, scale);
        return y;
    }
    for (i = 0; i < m; i++, a += k, y += n) {
        for (j = 0; j < n; j++)
            y[j] = transposed ? k_dot_f32(a, b + j * k, k) : 0.0f;
        for (p = 0; p < k && !transposed; p++)
            for (j = 0; j < n; j++)
                y[j] += a[p] * b[p * n + j];
        for (j = 0; j < n; j++)
            y[j] *= scale;
    }
    return y;
}

/* Which two pixels an output pixel lies between, and how far from the first; `corners`: the outermost pixels coincide. */
static float k_between_pixels(int32_t i, int32_t count, int32_t size, int32_t corners, int32_t *low, int32_t *next)
{
    float place = corners ? (size > 1 ? (float)i * ((float)(count - 1) / (float)(size - 1)) : 0.0f)
                          : ((float)i + 0.5f) * ((float)count / (float)size) - 0.5f;
    place = place < 0.0f ? 0.0f : place;
    *low = (int32_t)place < count - 1 ? (int32_t)place : count - 1;
    *next = *low < count - 1 ? *low + 1 : count - 1;
    return place - (float)*low;
}

/* Bilinear, [h][w][c] to [oh][ow][c]. */
static void k_bilinear(const float *x, float *y, const k_layer *l, int32_t corners)
{
    int32_t oy, ox, c, y0, y1, x0, x1;
    for (oy = 0; oy < l->oh; oy++)
        for (ox = 0; ox < l->ow; ox++) {
            const float down = k_between_pixels(oy, l->h, l->oh, corners, &y0, &y1);
            const float right = k_between_pixels(ox, l->w, l->ow, corners, &x0, &x1);
            for (c = 0; c < l->c; c++) {
                const float a = x[(y0 * l->w + x0) * l->c + c] * (1.0f - down) + x[(y1 * l->w + x0) * l->c + c] * down;
                const float b = x[(y0 * l->w + x1) * l->c + c] * (1.0f - down) + x[(y1 * l->w + x1) * l->c + c] * down;
                *y++ = a * (1.0f - right) + b * right;
            }
        }
}
