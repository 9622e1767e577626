/* What a processor can do at most, for karui calibrate. Each function repeats its loop n times; Python times it.
 *
 * Chains of sums that don't wait for each other, and that are not equal, so that only the number of instructions
 * a cycle counts. `data`: 1 KiB of noise. */

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2,fma,popcnt")))
#define TEN(S) S(0) S(1) S(2) S(3) S(4) S(5) S(6) S(7) S(8) S(9)

/* Products of 16 bits, added in pairs: 10 × 16 MACs. */
AVX2 int32_t int8_x86_64_v3(int32_t n, const void *data)
{
    const __m256i y = _mm256_loadu_si256((const __m256i *)data);
#define S(k) __m256i a##k = _mm256_loadu_si256((const __m256i *)data + 1 + k);
    TEN(S)
#undef S
    int32_t i;
#define S(k) a##k = _mm256_add_epi32(a##k, _mm256_madd_epi16(a##k, y));
    for (i = 0; i < n; i++) {
        TEN(S)
    }
#undef S
    __m256i all = y;
#define S(k) all = _mm256_xor_si256(all, a##k);
    TEN(S)
#undef S
    return _mm256_extract_epi32(all, 0);
}

/* 10 × 8 MACs. */
AVX2 int32_t float_x86_64_v3(int32_t n, const void *data)
{
    const __m256 y = _mm256_loadu_ps((const float *)data);
#define S(k) __m256 a##k = _mm256_loadu_ps((const float *)data + 8 + 8 * k);
    TEN(S)
#undef S
    int32_t i;
#define S(k) a##k = _mm256_fmadd_ps(a##k, y, y);
    for (i = 0; i < n; i++) {
        TEN(S)
    }
#undef S
    __m256 all = y;
#define S(k) all = _mm256_xor_ps(all, a##k);
    TEN(S)
#undef S
    return _mm256_extract_epi32(_mm256_castps_si256(all), 0);
}

/* Bits that differ, counted by tables of 16 entries: 4 × 256 MACs. */
AVX2 int32_t binary_x86_64_v3(int32_t n, const void *data)
{
    const __m256i t = _mm256_loadu_si256((const __m256i *)data), few = _mm256_set1_epi8(15);
    const __m256i *more = (const __m256i *)data + 1, x = _mm256_loadu_si256(more);
    __m256i a0 = _mm256_loadu_si256(more + 1), a1 = _mm256_loadu_si256(more + 2);
    __m256i a2 = _mm256_loadu_si256(more + 3), a3 = _mm256_loadu_si256(more + 4);
    int32_t i;
    for (i = 0; i < n; i++) {
#define S(k) \
    { \
        const __m256i d = _mm256_xor_si256(x, a##k); \
        const __m256i low = _mm256_shuffle_epi8(t, _mm256_and_si256(d, few)); \
        const __m256i high = _mm256_shuffle_epi8(t, _mm256_and_si256(_mm256_srli_epi16(d, 4), few)); \
        a##k = _mm256_add_epi8(a##k, _mm256_add_epi8(low, high)); \
    }
        S(0) S(1) S(2) S(3)
#undef S
    }
    return _mm256_extract_epi32(_mm256_xor_si256(_mm256_xor_si256(a0, a1), _mm256_xor_si256(a2, a3)), 0);
}

/* The same by the instruction that counts 64 bits: 4 × 64 MACs. */
AVX2 int32_t popcount_x86_64_v3(int32_t n, const void *data)
{
    const uint64_t *w = (const uint64_t *)data;
    uint64_t a = w[4], b = w[5], c = w[6], d = w[7];
    int32_t i;
    for (i = 0; i < n; i++) {
        a += (uint64_t)__builtin_popcountll(a ^ w[0]);
        b += (uint64_t)__builtin_popcountll(b ^ w[1]);
        c += (uint64_t)__builtin_popcountll(c ^ w[2]);
        d += (uint64_t)__builtin_popcountll(d ^ w[3]);
    }
    return (int32_t)(a ^ b ^ c ^ d);
}

/* Bits that differ, 512 at a time: 10 × 512 MACs. */
__attribute__((target("avx512f,avx512vpopcntdq"))) int32_t popcount_x86_64_v4(int32_t n, const void *data)
{
    const __m512i y = _mm512_loadu_si512(data);
#define S(k) __m512i a##k = _mm512_loadu_si512((const char *)data + 64 + 64 * k);
    TEN(S)
#undef S
    int32_t i;
#define S(k) a##k = _mm512_add_epi64(a##k, _mm512_popcnt_epi64(_mm512_xor_si512(a##k, y)));
    for (i = 0; i < n; i++) {
        TEN(S)
    }
#undef S
    __m512i all = y;
#define S(k) all = _mm512_xor_si512(all, a##k);
    TEN(S)
#undef S
    return _mm512_reduce_add_epi32(all);
}

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

/* 10 × 64 MACs. */
AVX512 int32_t int8_x86_64_v4(int32_t n, const void *data)
{
    const __m512i y = _mm512_loadu_si512(data);
#define S(k) __m512i a##k = _mm512_loadu_si512((const char *)data + 64 + 64 * k);
    TEN(S)
#undef S
    int32_t i;
#define S(k) a##k = _mm512_dpbusd_epi32(a##k, y, y);
    for (i = 0; i < n; i++) {
        TEN(S)
    }
#undef S
    __m512i all = y;
#define S(k) all = _mm512_xor_si512(all, a##k);
    TEN(S)
#undef S
    return _mm512_reduce_add_epi32(all);
}

/* 10 × 16 MACs. */
AVX512 int32_t float_x86_64_v4(int32_t n, const void *data)
{
    const __m512 y = _mm512_loadu_ps(data);
#define S(k) __m512 a##k = _mm512_loadu_ps((const float *)data + 16 + 16 * k);
    TEN(S)
#undef S
    int32_t i;
#define S(k) a##k = _mm512_fmadd_ps(a##k, y, y);
    for (i = 0; i < n; i++) {
        TEN(S)
    }
#undef S
    return (int32_t)_mm512_reduce_add_ps(a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9);
}
#endif

#if defined(__aarch64__)
#include <arm_neon.h>
#define EIGHT(S) S(0) S(1) S(2) S(3) S(4) S(5) S(6) S(7)

/* Products of 16 bits from both halves, added to sums of 32 bits: 8 × 16 MACs. */
int32_t int8_pi4(int32_t n, const void *data)
{
    const int8x16_t y = vld1q_s8((const int8_t *)data);
#define S(k) int32x4_t a##k = vld1q_s32((const int32_t *)data + 4 + 4 * k);
    EIGHT(S)
#undef S
    int32_t i;
#define S(k) \
    { \
        const int8x16_t x = vreinterpretq_s8_s32(a##k); \
        a##k = vpadalq_s16(a##k, vmlal_high_s8(vmull_s8(vget_low_s8(x), vget_low_s8(y)), x, y)); \
    }
    for (i = 0; i < n; i++) {
        EIGHT(S)
    }
#undef S
    return vaddvq_s32(veorq_s32(veorq_s32(veorq_s32(a0, a1), veorq_s32(a2, a3)), veorq_s32(veorq_s32(a4, a5), veorq_s32(a6, a7))));
}

/* 8 × 16 MACs. */
__attribute__((target("arch=armv8.2-a+dotprod"))) int32_t int8_pi5(int32_t n, const void *data)
{
    const int8x16_t y = vld1q_s8((const int8_t *)data);
#define S(k) int32x4_t a##k = vld1q_s32((const int32_t *)data + 4 + 4 * k);
    EIGHT(S)
#undef S
    int32_t i;
#define S(k) __asm__ volatile("sdot %0.4s, %1.16b, %1.16b" : "+w"(a##k) : "w"(y));
    for (i = 0; i < n; i++) {
        EIGHT(S)
    }
#undef S
    return vaddvq_s32(veorq_s32(veorq_s32(veorq_s32(a0, a1), veorq_s32(a2, a3)), veorq_s32(veorq_s32(a4, a5), veorq_s32(a6, a7))));
}

/* 8 × 4 MACs. */
int32_t float_pi4(int32_t n, const void *data)
{
    const float32x4_t y = vld1q_f32((const float *)data);
#define S(k) float32x4_t a##k = vld1q_f32((const float *)data + 4 + 4 * k);
    EIGHT(S)
#undef S
    int32_t i;
#define S(k) a##k = vfmaq_f32(y, a##k, y);
    for (i = 0; i < n; i++) {
        EIGHT(S)
    }
#undef S
    return (int32_t)vaddvq_f32(a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7);
}

/* Bits that differ, counted by bytes: 8 × 128 MACs. */
int32_t binary_pi4(int32_t n, const void *data)
{
    const uint8x16_t y = vld1q_u8((const uint8_t *)data);
#define S(k) uint8x16_t a##k = vld1q_u8((const uint8_t *)data + 16 + 16 * k);
    EIGHT(S)
#undef S
    int32_t i;
#define S(k) a##k = vaddq_u8(a##k, vcntq_u8(veorq_u8(a##k, y)));
    for (i = 0; i < n; i++) {
        EIGHT(S)
    }
#undef S
    return vaddvq_u8(a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7);
}
#endif

/* `bytes` of memory, read n times, 32 at a time where the processor can. `bytes` is a multiple of 256. */
#if defined(__x86_64__)
AVX2
#endif
int32_t read_memory(int32_t n, const void *data, size_t bytes)
{
    typedef uint64_t wide __attribute__((vector_size(32), aligned(8), may_alias));
    const wide *from = (const wide *)data;
    wide a = from[0], b = a, c = a, d = a;
    size_t k;
    int32_t i;
    for (i = 0; i < n; i++) {
        for (k = 0; k < bytes / 32; k += 8) {
            a ^= from[k] ^ from[k + 4];
            b ^= from[k + 1] ^ from[k + 5];
            c ^= from[k + 2] ^ from[k + 6];
            d ^= from[k + 3] ^ from[k + 7];
        }
        __asm__ volatile("" : : "r"(data) : "memory");
    }
    a ^= b ^ c ^ d;
    return (int32_t)(a[0] ^ a[1] ^ a[2] ^ a[3]);
}
