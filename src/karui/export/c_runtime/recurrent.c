/* Recurrence over the first axis: gates in the order of the network's framework; h and c start at zero. */

#include <math.h>
#include <stdint.h>
#include <string.h>

/* y[row] = weight[row] · x + bias[row] for all rows. `row`: scratch [inputs], or NULL where rows can be read in place. */
static void k_rows_f32(const k_weight *w, int32_t rows, const float *x, const float *bias, float *y, float *row, k_index *index,
                       float *stored)
{
    k_cursor cursor = k_start();
    int32_t o;
    for (o = 0; o < rows; o++) {
        if (row)
            k_row_reals(w, &cursor, o, index, stored, row);
        y[o] = k_dot_f32(row ? row : (const float *)w->values + o * w->inputs, x, w->inputs) + (bias ? bias[o] : 0.0f);
    }
}

/* A recurrent layer: its two weights, their biases, and scratch for both. */
typedef struct {
    int32_t length, inputs, hidden, reverse;
    const k_weight *ih, *hh;
    const float *bias_ih, *bias_hh;
    float *row_ih, *row_hh; /* NULL where rows can be read in place */
    k_index *index;
    float *stored, *gates_ih, *gates_hh; /* gates: [gates · hidden] each */
} k_recurrent;

/* 1 / (1 + exp(−x)). */
static float k_logistic(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* h = (1 − z)·n + z·h with n = tanh(W x + b + r·(U h + c)); gates r, z, n. */
static void k_gru(const float *x, float *y, float *h, const k_recurrent *r)
{
    const int32_t n = r->hidden;
    int32_t i, t;
    memset(h, 0, (size_t)n * sizeof(float));
    for (i = 0; i < r->length; i++) {
        const float *a = r->gates_ih, *b = r->gates_hh;
        int32_t j;
        t = r->reverse ? r->length - 1 - i : i;
        k_rows_f32(r->ih, 3 * n, x + t * r->inputs, r->bias_ih, r->gates_ih, r->row_ih, r->index, r->stored);
        k_rows_f32(r->hh, 3 * n, h, r->bias_hh, r->gates_hh, r->row_hh, r->index, r->stored);
        for (j = 0; j < n; j++) {
            const float reset = k_logistic(a[j] + b[j]), update = k_logistic(a[n + j] + b[n + j]);
            const float fresh = tanhf(a[2 * n + j] + reset * b[2 * n + j]);
            h[j] = (1.0f - update) * fresh + update * h[j];
            y[t * n + j] = h[j];
        }
    }
}

/* c = f·c + i·g and h = o·tanh(c); gates i, f, g, o. */
static void k_lstm(const float *x, float *y, float *h, float *c, const k_recurrent *r)
{
    const int32_t n = r->hidden;
    int32_t i, t;
    memset(h, 0, (size_t)n * sizeof(float));
    memset(c, 0, (size_t)n * sizeof(float));
    for (i = 0; i < r->length; i++) {
        const float *a = r->gates_ih, *b = r->gates_hh;
        int32_t j;
        t = r->reverse ? r->length - 1 - i : i;
        k_rows_f32(r->ih, 4 * n, x + t * r->inputs, r->bias_ih, r->gates_ih, r->row_ih, r->index, r->stored);
        k_rows_f32(r->hh, 4 * n, h, r->bias_hh, r->gates_hh, r->row_hh, r->index, r->stored);
        for (j = 0; j < n; j++) {
            c[j] = k_logistic(a[n + j] + b[n + j]) * c[j] + k_logistic(a[j] + b[j]) * tanhf(a[2 * n + j] + b[2 * n + j]);
            h[j] = k_logistic(a[3 * n + j] + b[3 * n + j]) * tanhf(c[j]);
            y[t * n + j] = h[j];
        }
    }
}
