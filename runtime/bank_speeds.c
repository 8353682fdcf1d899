/* How fast an expert is computed from each tier's memory: measured when a bank
 * is made, in a record of its own, so that nobody's weights are touched. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "offload/memory.h"
#include "runtime/session.h"

enum { ROWS = 16, ROUNDS = 3 };

typedef struct trial {
    const coterie_bank_t *bank;
    coterie_arena_t arena;
    float *x, *sums; /* [ROWS, hidden] */
    void *scratch;
} trial_t;

static double memory_measure(trial_t *trial,
                             const coterie_memory_ops_t *memory,
                             uint32_t rows);
static double compute_ns(const trial_t *trial, uint32_t rows);

coterie_status_t coterie_bank_speeds(const coterie_bank_t *bank)
{
    coterie_speeds_t speeds;
    coterie_status_t status = coterie_bank_speeds_measure(bank, &speeds);

    if (status == COTERIE_OK)
        coterie_tiers_speeds(bank->tiers, &speeds);
    return status;
}

coterie_status_t coterie_bank_speeds_measure(const coterie_bank_t *bank,
                                             coterie_speeds_t *speeds)
{
    size_t size = ROWS * (size_t)bank->shape.hidden * sizeof(float);
    trial_t trial = {.bank = bank,
                     .x = calloc(1, size),
                     .sums = calloc(1, size),
                     .scratch =
                         malloc(coterie_expert_ffn_scratch(&bank->shape))};
    coterie_status_t status = COTERIE_OK;

    if (trial.x == NULL || trial.sums == NULL || trial.scratch == NULL) {
        status = coterie_fail_memory(size, "measuring kernels");
    } else {
        speeds->fast_ns = memory_measure(&trial, &coterie_memory_fast, 1);
        speeds->host_ns = memory_measure(&trial, &coterie_memory_host, 1);
        speeds->row_ns =
            memory_measure(&trial, &coterie_memory_fast, ROWS) / ROWS;
        speeds->copy_ns = memory_measure(&trial, &coterie_memory_host, 0);
    }
    free(trial.x);
    free(trial.sums);
    free(trial.scratch);
    return status;
}

/* The best of some rounds; 0 if there is no memory to try. Without rows, of
 * copying a record within itself. */
static double memory_measure(trial_t *trial,
                             const coterie_memory_ops_t *memory,
                             uint32_t rows)
{
    size_t size = trial->bank->format.record_size, half = size / 2;
    double best = 0;

    if (memory->create(size, size, &trial->arena) != COTERIE_OK)
        return 0;
    memset(trial->arena.data, 0, size);
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t start = coterie_now_ns();
        double ns;

        if (rows == 0) {
            memory->fill(trial->arena.data, trial->arena.data + half, half);
            memory->fill(trial->arena.data + half, trial->arena.data, half);
        }
        ns = rows > 0 ? compute_ns(trial, rows)
                      : (double)(coterie_now_ns() - start);
        best = i == 0 || ns < best ? ns : best;
    }
    memory->destroy(&trial->arena);
    return best;
}

static double compute_ns(const trial_t *trial, uint32_t rows)
{
    const uint32_t first[2] = {0, rows};
    const coterie_expert_weights_t expert =
        coterie_bank_weights(&trial->bank->format, trial->arena.data);
    uint32_t row[ROWS];
    float weight[ROWS];
    uint64_t start;

    for (uint32_t i = 0; i < rows; i++) {
        row[i] = i;
        weight[i] = 1;
    }
    start = coterie_now_ns();
    coterie_expert_ffn(&trial->bank->shape, &expert,
                       &(coterie_expert_rows_t){1, rows, first, row, weight},
                       trial->x, trial->sums, trial->scratch);
    return (double)(coterie_now_ns() - start);
}
