/* Functions of one value. `alpha` is the one setting that some of them have; sums of exponentials are written so that they can't overflow. */

#include <math.h>
#include <stdint.h>

/* A function of every value. */
static void k_unary(float (*function)(float, float), const float *x, float *y, int32_t count, float alpha)
{
    int32_t i;
    for (i = 0; i < count; i++)
        y[i] = function(x[i], alpha);
}

/* x between 0 and 6. */
static float k_relu6(float x, float alpha)
{
    (void)alpha;
    return x < 0.0f ? 0.0f : x > 6.0f ? 6.0f : x;
}

/* log(1 + exp(x)). */
static float k_softplus(float x, float alpha)
{
    (void)alpha;
    return (x > 0.0f ? x : 0.0f) + log1pf(expf(-fabsf(x)));
}

/* x, or 0 below zero. */
static float k_relu(float x, float alpha)
{
    (void)alpha;
    return x < 0.0f ? 0.0f : x;
}

/* x, or alpha · x below zero. */
static float k_leaky_relu(float x, float alpha)
{
    return x > 0.0f ? x : alpha * x;
}

/* x, or alpha · (exp(x) − 1) below zero. */
static float k_elu(float x, float alpha)
{
    return x > 0.0f ? x : alpha * expm1f(x);
}

/* x, or alpha · (exp(x / alpha) − 1) below zero. */
static float k_celu(float x, float alpha)
{
    return x > 0.0f ? x : alpha * expm1f(x / alpha);
}

/* A self-normalizing elu. */
static float k_selu(float x, float alpha)
{
    (void)alpha;
    return 1.0507009873554805f * (x > 0.0f ? x : 1.6732632423543772f * expm1f(x));
}

/* x times the normal distribution's share below x. */
static float k_gelu(float x, float alpha)
{
    (void)alpha;
    return 0.5f * x * (1.0f + erff(x * 0.70710678f));
}

/* The approximation of gelu by tanh. */
static float k_gelu_tanh(float x, float alpha)
{
    (void)alpha;
    return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
}

/* x · sigmoid(x). */
static float k_silu(float x, float alpha)
{
    (void)alpha;
    return x / (1.0f + expf(-x));
}

/* x · tanh(softplus(x)). */
static float k_mish(float x, float alpha)
{
    return x * tanhf(k_softplus(x, alpha));
}

/* 1 / (1 + exp(−x)). */
static float k_sigmoid(float x, float alpha)
{
    (void)alpha;
    return 1.0f / (1.0f + expf(-x));
}

/* log(1 / (1 + exp(−x))). */
static float k_log_sigmoid(float x, float alpha)
{
    return -k_softplus(-x, alpha);
}

/* A sigmoid of straight lines. */
static float k_hardsigmoid(float x, float alpha)
{
    return k_relu6(x + 3.0f, alpha) / 6.0f;
}

/* x · hardsigmoid(x). */
static float k_hardswish(float x, float alpha)
{
    return x * k_relu6(x + 3.0f, alpha) / 6.0f;
}

/* x / (1 + |x|). */
static float k_softsign(float x, float alpha)
{
    (void)alpha;
    return x / (1.0f + fabsf(x));
}

/* tanh. */
static float k_tanh(float x, float alpha)
{
    (void)alpha;
    return tanhf(x);
}

/* exp. */
static float k_exp(float x, float alpha)
{
    (void)alpha;
    return expf(x);
}

/* expm1. */
static float k_expm1(float x, float alpha)
{
    (void)alpha;
    return expm1f(x);
}

/* log. */
static float k_log(float x, float alpha)
{
    (void)alpha;
    return logf(x);
}

/* log1p. */
static float k_log1p(float x, float alpha)
{
    (void)alpha;
    return log1pf(x);
}

/* sqrt. */
static float k_sqrt(float x, float alpha)
{
    (void)alpha;
    return sqrtf(x);
}

/* rsqrt. */
static float k_rsqrt(float x, float alpha)
{
    (void)alpha;
    return 1.0f / sqrtf(x);
}

/* reciprocal. */
static float k_reciprocal(float x, float alpha)
{
    (void)alpha;
    return 1.0f / x;
}

/* square. */
static float k_square(float x, float alpha)
{
    (void)alpha;
    return x * x;
}

/* pow. */
static float k_pow(float x, float alpha)
{
    return powf(x, alpha);
}

/* abs. */
static float k_abs(float x, float alpha)
{
    (void)alpha;
    return fabsf(x);
}

/* neg. */
static float k_neg(float x, float alpha)
{
    (void)alpha;
    return -x;
}

/* −1, 0 or 1. */
static float k_sign(float x, float alpha)
{
    (void)alpha;
    return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x;
}

/* floor. */
static float k_floor(float x, float alpha)
{
    (void)alpha;
    return floorf(x);
}

/* ceil. */
static float k_ceil(float x, float alpha)
{
    (void)alpha;
    return ceilf(x);
}

/* To the nearest whole number, half to even. */
static float k_round(float x, float alpha)
{
    (void)alpha;
    return rintf(x);
}

/* erf. */
static float k_erf(float x, float alpha)
{
    (void)alpha;
    return erff(x);
}

/* sin. */
static float k_sin(float x, float alpha)
{
    (void)alpha;
    return sinf(x);
}

/* cos. */
static float k_cos(float x, float alpha)
{
    (void)alpha;
    return cosf(x);
}
