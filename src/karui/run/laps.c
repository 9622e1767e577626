/* A plugin for QEMU that counts the instructions of a program of one thread. Each time that the program comes to its function karui_lap, which
 * does nothing, the count so far is added to the file laps.bin of the current folder, as a uint64.
 *
 * QEMU's own header isn't everywhere where QEMU is, so what is needed of it is declared here. A plugin says which version of that interface it
 * was made for; these functions are the same in all, but a QEMU takes only some versions. */

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define SHOWN __attribute__((visibility("default")))

struct qemu_plugin_tb; /* a few instructions that run one after the other */
struct qemu_plugin_insn;
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*told)(uint64_t id, struct qemu_plugin_tb *block));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, void (*told)(unsigned processor, void *ours), int registers, void *ours);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t at);
const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *instruction);
void qemu_plugin_register_vcpu_tb_exec_inline(void) __attribute__((weak)); /* gone since version 2, which is the oldest that is taken then */
SHOWN int qemu_plugin_install(uint64_t id, const void *about, int count, char **arguments);

extern SHOWN int qemu_plugin_version;
int qemu_plugin_version = 2;

static uint64_t counted;
static FILE *laps;

/* Before QEMU reads the version. */
__attribute__((constructor)) static void choose(void)
{
    if (qemu_plugin_register_vcpu_tb_exec_inline)
        qemu_plugin_version = 1;
}

static void runs(unsigned processor, void *instructions)
{
    (void)processor;
    counted += (uintptr_t)instructions;
}

static void lap(unsigned processor, void *instructions)
{
    (void)processor;
    (void)instructions;
    fwrite(&counted, sizeof counted, 1, laps);
}

static void translated(uint64_t id, struct qemu_plugin_tb *block)
{
    const uintptr_t instructions = qemu_plugin_tb_n_insns(block);
    const char *symbol = qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(block, 0));
    (void)id;
    if (symbol && strcmp(symbol, "karui_lap") == 0)
        qemu_plugin_register_vcpu_tb_exec_cb(block, lap, 0, NULL);
    qemu_plugin_register_vcpu_tb_exec_cb(block, runs, 0, (void *)instructions);
}

int qemu_plugin_install(uint64_t id, const void *about, int count, char **arguments)
{
    (void)about;
    (void)count;
    (void)arguments;
    laps = fopen("laps.bin", "wb");
    if (!laps)
        return 1;
    setvbuf(laps, NULL, _IONBF, 0); /* a program may be ended without notice */
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
