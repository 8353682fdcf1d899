#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/coterie.h>

#include "runtime/session.h"

static coterie_model_t *open_model(void);
static coterie_placement_t *place(uint32_t layers, uint32_t experts,
                                  uint32_t ranks);
static void direct_sum(const coterie_model_t *model, uint32_t layer,
                       uint32_t expert, const float *x, float *sums);

Test(bank, computes_what_the_records_of_its_slots_say)
{
    coterie_model_t *model = open_model();
    coterie_model_config_t config = {.size = sizeof(config)};
    coterie_placement_t *placement;
    coterie_bank_t *bank = NULL;
    coterie_placement_options_t view;

    coterie_model_config(model, &config);
    placement = place(config.moe_layers, config.experts, 2);
    coterie_placement_view(placement, &view);
    cr_assert(eq(int, COTERIE_OK,
                 coterie_bank_create(model, placement, 1, &bank)));
    float *x = calloc(config.hidden, sizeof(float));
    float *sums = calloc(config.hidden, sizeof(float));
    float *right = calloc(config.hidden, sizeof(float));
    void *scratch = malloc(coterie_bank_scratch(bank));
    uint32_t slots = config.experts - config.experts / 2, row = 0;
    uint32_t *first = calloc(slots + 1, sizeof(uint32_t));
    float weight = 0.5f;

    for (uint32_t i = 0; i < config.hidden; i++)
        x[i] = (float)i / (float)config.hidden;
    first[slots] = 1; /* the last slot has the row */
    coterie_bank_compute(
        bank, config.moe_layers - 1,
        &(coterie_expert_rows_t){slots, 1, first, &row, &weight}, x, sums,
        scratch);
    direct_sum(model, config.moe_layers - 1, config.experts - 1, x, right);
    cr_expect(zero(int, memcmp(sums, right, config.hidden * sizeof(float))));
    free(x);
    free(sums);
    free(right);
    free(scratch);
    free(first);
    coterie_bank_destroy(bank);
    coterie_placement_destroy(placement);
    coterie_model_close(model);
}

Test(bank, refuses_a_placement_of_another_model)
{
    coterie_model_t *model = open_model();
    coterie_placement_t *placement = place(1, 3, 2);
    coterie_bank_t *bank = NULL;

    cr_expect(eq(int, COTERIE_ERR_MISMATCH,
                 coterie_bank_create(model, placement, 0, &bank)));
    cr_expect(zero(ptr, bank)); /* untouched */
    coterie_placement_destroy(placement);
    coterie_model_close(model);
}

Test(bank, refuses_a_rank_beyond_the_placement)
{
    coterie_model_t *model = open_model();
    coterie_model_config_t config = {.size = sizeof(config)};
    coterie_placement_t *placement;
    coterie_bank_t *bank = NULL;

    coterie_model_config(model, &config);
    placement = place(config.moe_layers, config.experts, 2);
    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_bank_create(model, placement, 2, &bank)));
    cr_expect(zero(ptr, bank));
    coterie_placement_destroy(placement);
    coterie_model_close(model);
}

static coterie_model_t *open_model(void)
{
    coterie_model_t *model = NULL;
    char path[1024];

    snprintf(path, sizeof(path), "%s/models/mixtral",
             getenv("COTERIE_TEST_DATA"));
    cr_assert(eq(int, COTERIE_OK, coterie_model_open(path, &model)));
    return model;
}

static coterie_placement_t *place(uint32_t layers, uint32_t experts,
                                  uint32_t ranks)
{
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT;
    coterie_placement_t *placement = NULL;

    options.layer_count = layers;
    options.expert_count = experts;
    options.rank_count = ranks;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_placement_create(&options, &placement)));
    return placement;
}

/* Half of one expert's output, from its record. */
static void direct_sum(const coterie_model_t *model, uint32_t layer,
                       uint32_t expert, const float *x, float *sums)
{
    coterie_expert_format_t format = {.size = sizeof(format)};
    coterie_ffn_shape_t shape;
    const uint32_t first[2] = {0, 1}, row = 0;
    const float weight = 0.5f;

    coterie_model_expert_format(model, &format);
    shape = (coterie_ffn_shape_t){.hidden = format.hidden,
                                  .ffn = format.ffn,
                                  .dtype = format.dtype};
    unsigned char *record = malloc(format.record_size);
    void *scratch = malloc(coterie_expert_ffn_scratch(&shape));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_model_expert(model, layer, expert, record)));
    coterie_expert_ffn(
        &shape,
        &(coterie_expert_weights_t){.gate = record + format.gate_offset,
                                    .up = record + format.up_offset,
                                    .down = record + format.down_offset},
        &(coterie_expert_rows_t){1, 1, first, &row, &weight}, x, sums,
        scratch);
    free(record);
    free(scratch);
}
