/* Which instructions a program may use, on x86-64. Asked when it runs. */

#include <stdint.h>

/* What this processor and its system bear: 1 AVX2 with FMA, 2 AVX-512 with VNNI, 4 with VBMI, 8 with BITALG. The compiler keeps a list of
 * that; in programs that zig links it stays empty (every x86-64 has SSE2, so it tells), and then the processor itself is asked. */
#if defined(K_X86)
static uint32_t k_bears(void)
{
    uint32_t found = 0;
    unsigned int a, b, c, d, low, high;
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse2")) {
        const int wide = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
        found |= __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 1u : 0u;
        found |= wide && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512dq") ? 2u : 0u;
        found |= wide && __builtin_cpu_supports("avx512bitalg") && __builtin_cpu_supports("avx512dq") ? 8u : 0u;
        return found | (wide && __builtin_cpu_supports("avx512vbmi") ? 4u : 0u);
    }
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & c >> 12 & 1) || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0)); /* the registers that the system keeps */
    if ((low & 0x06) == 0x06)
        found |= b >> 5 & 1;
    if ((low & 0xe6) == 0xe6 && (b >> 30 & 1) && (b >> 31 & 1))
        found |= ((c >> 11 & b >> 17 & 1) << 1) | ((c >> 1 & 1) << 2) | ((c >> 12 & b >> 17 & 1) << 3);
    return found;
}
#endif
