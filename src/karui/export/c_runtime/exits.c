/* Early exits. */

#include <stdint.h>
#include <string.h>

/* Is the greatest of the scores by the margin above the second greatest? */
static int k_sure(const float *x, int32_t count, float margin)
{
    float first = x[0] > x[1] ? x[0] : x[1], second = x[0] > x[1] ? x[1] : x[0];
    int32_t i;
    for (i = 2; i < count; i++) {
        if (x[i] > first) {
            second = first;
            first = x[i];
        } else if (x[i] > second) {
            second = x[i];
        }
    }
    return first - second >= margin;
}

/* The exit's scores where they are sure, else the others. */
static void k_exit_if(const float *early, const float *late, float *y, int32_t count, float margin)
{
    memcpy(y, k_sure(early, count, margin) ? early : late, (size_t)count * sizeof(float));
}
