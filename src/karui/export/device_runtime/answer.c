/* The answer: the class of the greatest value, with its share of 1. */

static long greatest(const float *values, long count)
{
    long i, best = 0;
    for (i = 1; i < count; i++)
        if (values[i] > values[best])
            best = i;
    return best;
}

/* A network that ends in logits: their softmax at one place. */
static float share(const float *logits, long count, long place)
{
    float sum = 0.0f;
    long i;
    for (i = 0; i < count; i++)
        sum += expf(logits[i] - logits[place]);
    return 1.0f / sum;
}
