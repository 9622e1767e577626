/* What a program on the board has. */

#include <stdint.h>

/* Statuses of a program that the processor stopped. */
#define BOARD_UNKNOWN 97   /* an instruction that it doesn't know, or a unit that it lacks */
#define BOARD_UNALIGNED 98 /* an address between words where there may be none */
#define BOARD_MEMORY 99    /* memory that isn't there */
#define BOARD_FAULT 100

/* A word anywhere, of anything. */
typedef uint32_t __attribute__((aligned(1), may_alias)) board_word;

void board_exit(int32_t status);
int32_t board_input(void);
int32_t board_output(void);
int32_t board_read(int32_t file, void *to, uint32_t bytes);
int32_t board_write(int32_t file, const void *from, uint32_t bytes);
void board_start_clock(void);
uint32_t board_ticks(void);
