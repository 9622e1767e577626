/* The machine's ceiling for products of one bit: exclusive-or and count of ones, from the first-level cache, and nothing else.
 * `count_tables` is what signs_avx2.c does: tables of sixteen weights' counts, which hold the exclusive-or. */

#include <immintrin.h>
#include <stdint.h>

uint8_t w[4096] __attribute__((aligned(64))), x[4096] __attribute__((aligned(64)));

/* Ones of w ^ x, `times` over; `vectors` of 32 bytes each, a multiple of 4 and at most 124. Nibbles are counted by a shuffle. */
__attribute__((target("avx2"))) uint64_t count_avx2(int32_t vectors, int32_t times)
{
    const __m256i ones = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i low = _mm256_set1_epi8(15), zero = _mm256_setzero_si256();
    __m256i all = zero;
    uint64_t found[4];
    int32_t t, i, k;
    for (t = 0; t < times; t++) {
        __m256i sums[4] = {zero, zero, zero, zero};
        for (i = 0; i < vectors; i += 4)
            for (k = 0; k < 4; k++) {
                const __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)(w + 32 * (i + k)));
                const __m256i v = _mm256_xor_si256(a, _mm256_loadu_si256((const __m256i *)(const void *)(x + 32 * (i + k))));
                const __m256i lower = _mm256_shuffle_epi8(ones, _mm256_and_si256(v, low));
                const __m256i upper = _mm256_shuffle_epi8(ones, _mm256_and_si256(_mm256_srli_epi16(v, 4), low));
                sums[k] = _mm256_add_epi8(sums[k], _mm256_add_epi8(lower, upper));
            }
        for (k = 0; k < 4; k++)
            all = _mm256_add_epi64(all, _mm256_sad_epu8(sums[k], zero));
        __asm__ volatile("" : "+x"(all)); /* each time anew */
    }
    _mm256_storeu_si256((__m256i *)(void *)found, all);
    return found[0] + found[1] + found[2] + found[3];
}

/* The same number of bits, where a row of a table, in a register, stands for four bits of x. */
__attribute__((target("avx2"))) uint64_t count_tables(int32_t vectors, int32_t times)
{
    const __m256i low = _mm256_set1_epi8(15), zero = _mm256_setzero_si256();
    __m256i rows[4], all = zero;
    uint64_t found[4];
    int32_t t, i, k;
    for (k = 0; k < 4; k++)
        rows[k] = _mm256_load_si256((const __m256i *)(const void *)(x + 32 * k));
    for (t = 0; t < times; t++) {
        __m256i sums[4] = {zero, zero, zero, zero};
        for (i = 0; i < vectors; i += 4) {
            const __m256i a = _mm256_load_si256((const __m256i *)(const void *)(w + 32 * i));
            const __m256i lower = _mm256_and_si256(a, low), upper = _mm256_and_si256(_mm256_srli_epi16(a, 4), low);
            for (k = 0; k < 4; k++) {
                sums[k] = _mm256_add_epi8(sums[k], _mm256_shuffle_epi8(rows[k], lower));
                __asm__ volatile("" : "+x"(sums[k]));
                sums[k] = _mm256_add_epi8(sums[k], _mm256_shuffle_epi8(rows[k], upper));
            }
        }
        for (k = 0; k < 4; k++)
            all = _mm256_add_epi64(all, _mm256_sad_epu8(sums[k], zero));
        __asm__ volatile("" : "+x"(all));
    }
    _mm256_storeu_si256((__m256i *)(void *)found, all);
    return found[0] + found[1] + found[2] + found[3];
}

/* The same by POPCNT, 64 bits at a time. */
__attribute__((target("popcnt"))) uint64_t count_popcnt(int32_t vectors, int32_t times)
{
    const uint64_t *a = (const uint64_t *)(const void *)w, *b = (const uint64_t *)(const void *)x;
    uint64_t sums[4] = {0, 0, 0, 0};
    int32_t t, i, k;
    for (t = 0; t < times; t++) {
        for (i = 0; i < 4 * vectors; i += 4)
            for (k = 0; k < 4; k++)
                sums[k] += (uint64_t)__builtin_popcountll(a[i + k] ^ b[i + k]);
        __asm__ volatile("" : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3]) : : "memory");
    }
    return sums[0] + sums[1] + sums[2] + sums[3];
}

/* The same by AVX-512's count of 64 bits (VPOPCNTDQ), eight times as many bits: a vector of w meets eight of x, in registers. */
__attribute__((target("avx512f,avx512vpopcntdq"))) uint64_t count_avx512(int32_t vectors, int32_t times)
{
    const __m512i zero = _mm512_setzero_si512();
    __m512i rows[8], sums[8] = {zero, zero, zero, zero, zero, zero, zero, zero};
    int32_t t, i, k;
    for (k = 0; k < 8; k++)
        rows[k] = _mm512_load_si512((const void *)(x + 64 * k));
    for (t = 0; t < times; t++) {
        for (i = 0; i < vectors / 2; i++) {
            const __m512i a = _mm512_load_si512((const void *)(w + 64 * i));
            for (k = 0; k < 8; k++)
                sums[k] = _mm512_add_epi64(sums[k], _mm512_popcnt_epi64(_mm512_xor_si512(a, rows[k])));
        }
        __asm__ volatile("" : : : "memory");
    }
    for (k = 1; k < 8; k++)
        sums[0] = _mm512_add_epi64(sums[0], sums[k]);
    return (uint64_t)_mm512_reduce_add_epi64(sums[0]);
}
