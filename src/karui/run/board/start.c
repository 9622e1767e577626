/* What stands before and beneath a model on a Cortex-M of QEMU: its vectors, its memory, and the host's files by semihosting. */

#include "board.h"

#include <stddef.h>

extern uint32_t board_stack[], board_data_from[], board_data[], board_data_end[], board_bss[], board_bss_end[];

int main(void);

/* Asks the debugger, which is QEMU. */
static int32_t ask(int32_t what, const void *with)
{
    register int32_t r0 __asm__("r0") = what;
    register const void *r1 __asm__("r1") = with;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void board_exit(int32_t status)
{
    const uint32_t reason[2] = {0x20026, (uint32_t)status};
    ask(0x20, reason);
    for (;;)
        ;
}

/* Of a name without its last zero; writing makes the file. Returns a handle, negative where there is none. */
static int32_t open_file(const char *name, uint32_t length, uint32_t mode)
{
    const uint32_t with[3] = {(uint32_t)name, mode, length};
    return ask(0x01, with);
}

int32_t board_input(void)
{
    return open_file("in.bin", 6, 1);
}

int32_t board_output(void)
{
    return open_file("out.bin", 7, 5);
}

int32_t board_read(int32_t file, void *to, uint32_t bytes)
{
    const uint32_t with[3] = {(uint32_t)file, (uint32_t)to, bytes};
    return ask(0x06, with) == 0;
}

int32_t board_write(int32_t file, const void *from, uint32_t bytes)
{
    const uint32_t with[3] = {(uint32_t)file, (uint32_t)from, bytes};
    return ask(0x05, with) == 0;
}

/* A counter of 32 bits, whose 25 million ticks a second are 1.6 an instruction with -icount shift=6. */
#define TIMER ((volatile uint32_t *)0x40000000)

void board_start_clock(void)
{
    TIMER[2] = 0xFFFFFFFFu;
    TIMER[1] = 0xFFFFFFFFu;
    TIMER[0] = 1;
}

uint32_t board_ticks(void)
{
    return 0xFFFFFFFFu - TIMER[1];
}

static void reset(void)
{
    const uint32_t *from = board_data_from;
    uint32_t *to;
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* the floating-point unit, before anything uses it */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
    for (to = board_data; to < board_data_end;)
        *to++ = *from++;
    for (to = board_bss; to < board_bss_end;)
        *to++ = 0;
    board_exit(main());
}

/* The processor stopped: its reasons become the status. */
static void fault(void)
{
    const uint32_t reasons = *(volatile uint32_t *)0xE000ED28;
    board_exit(reasons & 0x00090000u ? BOARD_UNKNOWN : reasons & 0x01000000u ? BOARD_UNALIGNED : reasons & 0x0000FFFFu ? BOARD_MEMORY : BOARD_FAULT);
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    board_stack, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault,
};

/* What C's compilers may call. */
void *memcpy(void *to, const void *from, size_t bytes)
{
    uint8_t *t = to;
    const uint8_t *f = from;
    for (; bytes >= 4; bytes -= 4, t += 4, f += 4)
        *(board_word *)t = *(const board_word *)f;
    while (bytes--)
        *t++ = *f++;
    return to;
}

void *memmove(void *to, const void *from, size_t bytes)
{
    uint8_t *t = to;
    const uint8_t *f = from;
    if (t <= f)
        return memcpy(to, from, bytes);
    while (bytes--)
        t[bytes] = f[bytes];
    return to;
}

void *memset(void *to, int value, size_t bytes)
{
    uint8_t *t = to;
    const uint32_t word = 0x01010101u * (uint8_t)value;
    for (; bytes >= 4; bytes -= 4, t += 4)
        *(board_word *)t = word;
    while (bytes--)
        *t++ = (uint8_t)value;
    return to;
}
