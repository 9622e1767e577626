/* Layers of signs on Cortex-M by tables. A row of a table says for four bits of a pixel how many of them differ from the weights' four bits,
 * in each of sixteen channels: two words of eight counts of four bits. One lookup stands for 64 products, and nothing is counted in the loop.
 * The tables are made on the device, in scratch, and pay where a layer has some pixels.
 *
 * Three rows add up to 12 at most. Then their even counts go to counts of eight bits, and all of them, shifted, to others, from which what
 * the even ones have brought along is taken off at the end: six instructions for sixteen channels, which are 252 inputs long enough. */

#include <stdint.h>
#include <string.h>

/* A layer's weights and how they are gone through. A four is four inputs, half a byte of bits; two lie in a byte, and their tables are one
 * into the other: [16][2][2] words. A piece is some neighbouring fours of a run. */
typedef struct {
    const int32_t *weights; /* [groups][blocks][fours][2]: four bits of each of eight channels: 0, 4, 2, 6, 1, 5, 3, 7 from the lowest on */
    const int32_t *pieces;  /* [pieces][2]: bytes from a pixel's start; 256 for each twelve fours, 2 for each two more, 1 where counts have
                             * to be widened after it */
    const int32_t *parts;   /* [parts + 1][2]: the pieces and the fours before each */
    int32_t count;          /* of parts, each of which has its tables by itself; sums of all pixels are kept between them. Of a layer of few
                             * pixels: of eights of fours; its weights are [groups][blocks of 8][fours] */
    int32_t kept;           /* pixels whose sums are kept: those, or of one part eight */
    int32_t scaled;         /* whether sums are multiplied by `step`, and hold what the border adds; else the multipliers say so */
    const int32_t *requant; /* [groups][blocks][16][2]: multiplier, whose lowest byte is the shift, too, and bias; or NULL: */
    const int32_t *most;    /* [groups][blocks][8]: the greatest sums whose bit is one, two in a word */
    int32_t low, high;      /* codes, four times in a word */
} k_tabled;

/* What the counts of some pixels share. */
typedef struct {
    const int32_t *pieces;
    const uint32_t *table; /* 640 bytes behind its start, as far as an instruction reaches to both sides */
    const int32_t *end;    /* of the pieces */
    int32_t along;         /* from pixel to pixel */
    int32_t begin;         /* whether sums are to begin with zero */
} k_table_job;

/* Tables of `fours` fours, an even number of them. Rows follow each other by one bit that changes, which adds one or takes one. */
#if defined(K_DSP)
#define k_row(how, a, b, at) \
    how " r3, r3, " a "\n\t" how " r12, r12, " b "\n\tstrd r3, r12, [r2, #" at "]\n\t"
static __attribute__((naked, noinline)) void k_table_of(const int32_t *weights __attribute__((unused)), int32_t fours __attribute__((unused)),
                                                        uint32_t *table __attribute__((unused)))
{
    __asm__ volatile(
        ".syntax unified\n\t"
        "push {r4-r11, lr}\n\t"
        "1:\n\t"
        "ldrd r3, r12, [r0], #8\n\t"
        "mov lr, #0x11111111\n\t"
        "and r4, lr, r3\n\t"
        "and r5, lr, r3, lsr #1\n\t"
        "and r6, lr, r3, lsr #2\n\t"
        "and r7, lr, r3, lsr #3\n\t"
        "and r8, lr, r12\n\t"
        "and r9, lr, r12, lsr #1\n\t"
        "and r10, lr, r12, lsr #2\n\t"
        "and r11, lr, r12, lsr #3\n\t"
        "adds r3, r4, r5\n\t"
        "adds r3, r3, r6\n\t"
        "adds r3, r3, r7\n\t"
        "add r12, r8, r9\n\t"
        "add r12, r12, r10\n\t"
        "add r12, r12, r11\n\t"
        "sub r4, lr, r4, lsl #1\n\t"
        "sub r5, lr, r5, lsl #1\n\t"
        "sub r6, lr, r6, lsl #1\n\t"
        "sub r7, lr, r7, lsl #1\n\t"
        "sub r8, lr, r8, lsl #1\n\t"
        "sub r9, lr, r9, lsl #1\n\t"
        "sub r10, lr, r10, lsl #1\n\t"
        "sub r11, lr, r11, lsl #1\n\t"
        "strd r3, r12, [r2]\n\t" /* [0], and so on: */
        k_row("add", "r4", "r8", "1 * 16")
        k_row("add", "r5", "r9", "3 * 16")
        k_row("sub", "r4", "r8", "2 * 16")
        k_row("add", "r6", "r10", "6 * 16")
        k_row("add", "r4", "r8", "7 * 16")
        k_row("sub", "r5", "r9", "5 * 16")
        k_row("sub", "r4", "r8", "4 * 16")
        k_row("add", "r7", "r11", "12 * 16")
        k_row("add", "r4", "r8", "13 * 16")
        k_row("add", "r5", "r9", "15 * 16")
        k_row("sub", "r4", "r8", "14 * 16")
        k_row("sub", "r6", "r10", "10 * 16")
        k_row("add", "r4", "r8", "11 * 16")
        k_row("sub", "r5", "r9", "9 * 16")
        k_row("sub", "r4", "r8", "8 * 16")
        "subs r1, r1, #1\n\t"
        "tst r1, #1\n\t"
        "ite ne\n\t"
        "addne r2, r2, #8\n\t"
        "addeq r2, r2, #248\n\t"
        "cmp r1, #0\n\t"
        "bne 1b\n\t"
        "pop {r4-r11, pc}\n\t");
}
#else
static void k_table_of(const int32_t *weights, int32_t fours, uint32_t *table)
{
    const uint32_t ones = 0x11111111u;
    int32_t i, k, bit, row;
    for (i = 0; i < fours; i++, table += i % 2 ? 2 : 62)
        for (k = 0; k < 2; k++) {
            const uint32_t w = (uint32_t)weights[2 * i + k];
            uint32_t *const rows = table + k;
            rows[0] = 0;
            for (bit = 0; bit < 4; bit++)
                rows[0] += w >> bit & ones;
            for (bit = 0; bit < 4; bit++)
                for (row = 0; row < 1 << bit; row++)
                    rows[4 * (row + (1 << bit))] = rows[4 * row] + (ones - 2 * (w >> bit & ones));
        }
}
#endif

/* Counts of `pixels` pixels, the first of which begins at `at`, added to their sums: [pixels][8], of two channels each. */
#if defined(K_DSP)
#define k_first(w, at) "uxtab r0, r2, r1" w "\n\tldrd r8, r9, [r0, #" at "]\n\t"
#define k_next(w, at) "uxtab r0, r2, r1" w "\n\tldrd r0, r11, [r0, #" at "]\n\tadd r8, r8, r0\n\tadd r9, r9, r11\n\t"
#define k_split \
    "and r0, r8, r12\n\tand r11, r9, r12\n\tadds r4, r4, r0\n\tadd r5, r5, r11\n\tadd r6, r6, r8, lsr #4\n\tadd r7, r7, r9, lsr #4\n\t"
#define k_widened(from, at) \
    "ldrd r8, r9, [r0, #" at "]\n\tuxtab16 r8, r8, " from "\n\tuxtab16 r9, r9, " from ", ror #8\n\tstrd r8, r9, [r0, #" at "]\n\t"
static __attribute__((naked, noinline)) void k_table_count(const k_table_job *job __attribute__((unused)),
                                                           const uint8_t *at __attribute__((unused)), uint32_t *sums __attribute__((unused)),
                                                           int32_t pixels __attribute__((unused)))
{
    __asm__ volatile(
        ".syntax unified\n\t"
        "push {r0-r11, lr}\n\t"
        "mov r12, #0x0f0f0f0f\n\t"
        "movs r4, #0\n\t"
        "movs r5, #0\n\t"
        "movs r6, #0\n\t"
        "movs r7, #0\n\t"
        "1:\n\t" /* a pixel */
        "ldm sp, {r0, r1, r2}\n\t"
        "ldr r3, [r0, #16]\n\t"
        "cbz r3, 2f\n\t"
        "strd r4, r5, [r2]\n\t"
        "strd r4, r5, [r2, #8]\n\t"
        "strd r4, r5, [r2, #16]\n\t"
        "strd r4, r5, [r2, #24]\n\t"
        "2:\n\t"
        "ldrd r10, r2, [r0]\n\t"
        "3:\n\t" /* a piece */
        "ldrd r3, lr, [r10], #8\n\t"
        "ldr r1, [sp, #4]\n\t"
        "adds r3, r3, r1\n\t"
        "subs lr, lr, #256\n\t"
        "blo 5f\n\t"
        "4:\n\t" /* twelve fours */
        "ldr r1, [r3], #4\n\t"
        k_first("", "-640") k_next(", ror #8", "-632") k_next(", ror #16", "-384") k_split
        k_first(", ror #24", "-376")
        "ldr r1, [r3], #4\n\t"
        k_next("", "-128") k_next(", ror #8", "-120") k_split
        k_first(", ror #16", "128") k_next(", ror #24", "136")
        "ldr r1, [r3], #4\n\t"
        k_next("", "384") k_split
        k_first(", ror #8", "392") k_next(", ror #16", "640") k_next(", ror #24", "648") k_split
        "add r2, r2, #1536\n\t"
        "subs lr, lr, #256\n\t"
        "bhs 4b\n\t"
        "5:\n\t"
        "ands lr, lr, #255\n\t"
        "beq 3b\n\t"
        "subs lr, lr, #2\n\t"
        "blo 7f\n\t"
        "6:\n\t" /* two fours */
        "ldrh r1, [r3], #2\n\t"
        k_first("", "-640") k_next(", ror #8", "-632") k_split
        "add r2, r2, #256\n\t"
        "subs lr, lr, #2\n\t"
        "bhs 6b\n\t"
        "lsls lr, lr, #31\n\t"
        "beq 3b\n\t"
        "7:\n\t" /* counts get wider: first the even ones are taken off the others */
        "bic r8, r4, #255\n\t"
        "bic r9, r5, #255\n\t"
        "ldr r0, [sp, #8]\n\t"
        "sub r6, r6, r8, lsr #4\n\t"
        "sub r7, r7, r9, lsr #4\n\t"
        k_widened("r4", "0") k_widened("r6", "8") k_widened("r5", "16") k_widened("r7", "24")
        "ldrd r0, r1, [sp]\n\t"
        "movs r4, #0\n\t"
        "movs r5, #0\n\t"
        "movs r6, #0\n\t"
        "ldrd r8, r9, [r0, #8]\n\t" /* end, along */
        "movs r7, #0\n\t"
        "cmp r10, r8\n\t"
        "bne 3b\n\t"
        "ldrd r2, r3, [sp, #8]\n\t"
        "add r1, r1, r9\n\t"
        "adds r2, #32\n\t"
        "strd r1, r2, [sp, #4]\n\t"
        "subs r3, #1\n\t"
        "str r3, [sp, #12]\n\t"
        "bne 1b\n\t"
        "add sp, #16\n\t"
        "pop {r4-r11, pc}\n\t");
}
#else
static void k_table_count(const k_table_job *job, const uint8_t *at, uint32_t *sums, int32_t pixels)
{
    const uint32_t bytes = 0x0f0f0f0fu, halves = 0x00ff00ffu;
    for (; pixels; pixels--, at += job->along, sums += 8) {
        const int32_t *piece;
        const uint32_t *table = job->table - 160;
        uint32_t even[2] = {0, 0}, odd[2] = {0, 0};
        int32_t i, k;
        for (k = 0; k < 8 && job->begin; k++)
            sums[k] = 0;
        for (piece = job->pieces; piece < job->end; piece += 2) {
            const int32_t fours = piece[1] / 256 * 12 + piece[1] % 256 / 2 * 2;
            for (i = 0; i < fours; i++, table += i % 2 ? 2 : 62)
                for (k = 0; k < 2; k++) {
                    const uint32_t row = table[at[piece[0] + i] / 4 + k];
                    even[k] += row & bytes;
                    odd[k] += row >> 4;
                }
            for (k = 0; k < 2 && piece[1] % 2; k++) {
                odd[k] -= (even[k] & ~255u) >> 4;
                sums[4 * k] += even[k] & halves;
                sums[4 * k + 1] += even[k] >> 8 & halves;
                sums[4 * k + 2] += odd[k] & halves;
                sums[4 * k + 3] += odd[k] >> 8 & halves;
                even[k] = odd[k] = 0;
            }
        }
    }
}
#endif
