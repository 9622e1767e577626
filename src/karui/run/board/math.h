/* Where there is no C library: what a model with floats wants of math.h. The compiler's runtime has these; others fail by name at linking. */

#ifndef BOARD_MATH_H
#define BOARD_MATH_H

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")

float expf(float x);
float logf(float x);
float sqrtf(float x);
float fabsf(float x);
float floorf(float x);
float ceilf(float x);
float roundf(float x);
float truncf(float x);
float sinf(float x);
float cosf(float x);
float fmaxf(float x, float y);
float fminf(float x, float y);
float tanhf(float x);
float erff(float x);
float powf(float x, float y);
float expm1f(float x);
float log1pf(float x);

#endif
