#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/options.h"
#include "placement/placement.h"
#include "placement/trace_object.h"

enum { ROWS_FIRST = 256 };

/* What one token chose at one layer; weights, ids and predictions follow. A
 * row says everything itself, so that rows of any rank can be put together by
 * appending bytes, and sorting alone makes a trace of them. */
typedef struct row {
    int32_t sequence, position;
    uint32_t layer, step, phase;
    int32_t token; /* or -1 */
} row_t;

struct coterie_trace_recorder {
    coterie_trace_recorder_options_t options;
    size_t row_size;
    size_t count, capacity; /* rows */
    unsigned char *rows;
};

/* What export puts before the rows. */
typedef struct flat {
    char magic[8];
    uint32_t layer_count, expert_count, k, predicted_k;
    uint64_t row_count;
} flat_t;

static const char flat_magic[8] = "cotrace2";

/* All rows, sorted. */
typedef struct merge {
    const coterie_trace_recorder_t *recorder;
    const row_t **order;
    uint64_t tokens, sequences;
} merge_t;

static float *row_weights(const row_t *row);
static int16_t *row_ids(const coterie_trace_recorder_t *recorder,
                        const row_t *row);
static int16_t *row_predicted(const coterie_trace_recorder_t *recorder,
                              const row_t *row);
static row_t *row_at(const coterie_trace_recorder_t *recorder, size_t index);
static coterie_status_t rows_reserve(coterie_trace_recorder_t *recorder,
                                     size_t more);
static coterie_status_t row_fill(const coterie_trace_recorder_t *recorder,
                                 const coterie_trace_rows_t *rows, uint32_t i,
                                 row_t *row);
static coterie_status_t ids_narrow(const coterie_trace_recorder_t *recorder,
                                   const row_t *row, const int32_t *ids,
                                   uint32_t count, int16_t *narrow);
static coterie_status_t row_check(const coterie_trace_recorder_t *recorder,
                                  const row_t *row);
static coterie_status_t id_fail(const coterie_trace_recorder_t *recorder,
                                const row_t *row, int id);
static int row_compare(const void *a, const void *b);
static coterie_status_t merge_check(merge_t *merge);
static size_t token_end(const merge_t *merge, size_t first);
static coterie_status_t token_check(const merge_t *merge, size_t first,
                                    size_t end);
static coterie_status_t row_agree(const coterie_trace_recorder_t *recorder,
                                  const row_t *one, const row_t *other);
static coterie_status_t missing(const row_t *row, uint32_t layer);
static void merge_store(const merge_t *merge, coterie_trace_t *trace);
static void row_store(const coterie_trace_recorder_t *recorder,
                      const row_t *row, uint64_t token,
                      coterie_trace_t *trace);
static int row_predicts(const coterie_trace_recorder_t *recorder,
                        const row_t *row);

coterie_status_t coterie_trace_recorder_create(
    const coterie_trace_recorder_options_t *options,
    coterie_trace_recorder_t **recorder_p)
{
    coterie_trace_recorder_options_t opts;
    coterie_trace_recorder_t *recorder;
    coterie_status_t status;

    if (options == NULL || recorder_p == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "coterie_trace_recorder_create: options and a "
                            "place for the recorder are required");
    status = coterie_options_read(options, &opts, sizeof(opts),
                                  "coterie_trace_recorder_options");
    if (status != COTERIE_OK)
        return status;
    if (opts.layer_count == 0 || opts.layer_count > COTERIE_LAYERS_MAX ||
        opts.expert_count == 0 ||
        opts.expert_count > COTERIE_TRACE_EXPERTS_MAX || opts.k == 0 ||
        opts.k > COTERIE_K_MAX ||
        opts.predicted_k > COTERIE_TRACE_EXPERTS_MAX)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "a recorder of %u layers, %u experts, %u of them a "
                            "token; at least 1 of each, at most %d, %d and %d",
                            opts.layer_count, opts.expert_count, opts.k,
                            COTERIE_LAYERS_MAX, COTERIE_TRACE_EXPERTS_MAX,
                            COTERIE_K_MAX);
    recorder = calloc(1, sizeof(*recorder));
    if (recorder == NULL)
        return coterie_fail_memory(sizeof(*recorder), "a recorder");
    recorder->options = opts;
    recorder->row_size = sizeof(row_t) + opts.k * sizeof(float) +
                         (opts.k + opts.predicted_k) * sizeof(int16_t);
    recorder->row_size = (recorder->row_size + 3) / 4 * 4; /* rows align */
    *recorder_p = recorder;
    return COTERIE_OK;
}

coterie_status_t coterie_trace_record(coterie_trace_recorder_t *recorder,
                                      const coterie_trace_rows_t *rows)
{
    coterie_trace_rows_t given;
    coterie_status_t status;

    if (recorder == NULL || rows == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "coterie_trace_record: a recorder and rows are "
                            "required");
    status = coterie_options_read(rows, &given, sizeof(given),
                                  "coterie_trace_rows");
    if (status != COTERIE_OK)
        return status;
    if (given.count > 0 && (given.sequence == NULL || given.position == NULL ||
                            given.topk_ids == NULL ||
                            given.topk_weights == NULL))
        return coterie_fail(COTERIE_ERR_INVALID,
                            "coterie_trace_record: rows need sequences, "
                            "positions, ids and weights");
    status = rows_reserve(recorder, given.count);
    for (uint32_t i = 0; status == COTERIE_OK && i < given.count; i++)
        status = row_fill(recorder, &given, i,
                          row_at(recorder, recorder->count + i));
    if (status == COTERIE_OK)
        recorder->count += given.count; /* all of them or none */
    return status;
}

coterie_status_t coterie_trace_recorder_export(
    const coterie_trace_recorder_t *recorder, void **data_p, size_t *size_p)
{
    unsigned char *data;
    size_t rows_size;
    flat_t flat;

    if (recorder == NULL || data_p == NULL || size_p == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "coterie_trace_recorder_export: a recorder and "
                            "places for the bytes are required");
    flat = (flat_t){.layer_count = recorder->options.layer_count,
                    .expert_count = recorder->options.expert_count,
                    .k = recorder->options.k,
                    .predicted_k = recorder->options.predicted_k,
                    .row_count = recorder->count};
    rows_size = recorder->count * recorder->row_size;
    data = malloc(sizeof(flat) + rows_size);
    if (data == NULL)
        return coterie_fail_memory(rows_size, "an exported recorder");
    memcpy(flat.magic, flat_magic, sizeof(flat.magic));
    memcpy(data, &flat, sizeof(flat));
    if (rows_size > 0)
        memcpy(data + sizeof(flat), recorder->rows, rows_size);
    *data_p = data;
    *size_p = sizeof(flat) + rows_size;
    return COTERIE_OK;
}

coterie_status_t coterie_trace_recorder_import(
    coterie_trace_recorder_t *recorder, const void *data, size_t size)
{
    const coterie_trace_recorder_options_t *options;
    coterie_status_t status;
    flat_t flat = {0};
    size_t rows_size;

    if (recorder == NULL || data == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "coterie_trace_recorder_import: a recorder and "
                            "bytes are required");
    options = &recorder->options;
    if (size >= sizeof(flat))
        memcpy(&flat, data, sizeof(flat));
    if (memcmp(flat.magic, flat_magic, sizeof(flat.magic)) != 0)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%zu bytes are no exported recorder", size);
    if (flat.layer_count != options->layer_count ||
        flat.expert_count != options->expert_count || flat.k != options->k ||
        flat.predicted_k != options->predicted_k)
        return coterie_fail(COTERIE_ERR_MISMATCH,
                            "a recorder of %u layers, %u experts, top-%u "
                            "cannot join one of %u, %u, top-%u",
                            flat.layer_count, flat.expert_count, flat.k,
                            options->layer_count, options->expert_count,
                            options->k);
    rows_size = size - sizeof(flat);
    if (rows_size % recorder->row_size != 0 ||
        flat.row_count != rows_size / recorder->row_size)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "an exported recorder of %llu rows cannot have "
                            "%zu bytes",
                            (unsigned long long)flat.row_count, size);
    status = rows_reserve(recorder, (size_t)flat.row_count);
    if (status != COTERIE_OK || rows_size == 0)
        return status;
    memcpy(row_at(recorder, recorder->count),
           (const unsigned char *)data + sizeof(flat), rows_size);
    for (size_t i = 0; status == COTERIE_OK && i < flat.row_count; i++)
        status = row_check(recorder, row_at(recorder, recorder->count + i));
    if (status == COTERIE_OK)
        recorder->count += (size_t)flat.row_count;
    return status;
}

coterie_status_t coterie_trace_recorder_finish(
    const coterie_trace_recorder_t *recorder, coterie_trace_t **trace_p)
{
    merge_t merge = {.recorder = recorder};
    coterie_trace_view_t shape;
    coterie_trace_t *trace;
    coterie_status_t status;

    if (recorder == NULL || trace_p == NULL || recorder->count == 0)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "coterie_trace_recorder_finish: nothing was "
                            "recorded, or there is no place for the trace");
    merge.order = malloc(recorder->count * sizeof(row_t *));
    if (merge.order == NULL)
        return coterie_fail_memory(recorder->count * sizeof(row_t *),
                                   "sorting recorded rows");
    for (size_t i = 0; i < recorder->count; i++)
        merge.order[i] = row_at(recorder, i);
    qsort(merge.order, recorder->count, sizeof(row_t *), row_compare);
    status = merge_check(&merge);
    if (status != COTERIE_OK)
        goto out;
    shape = (coterie_trace_view_t){
        .token_count = merge.tokens,
        .sequence_count = merge.sequences,
        .layer_count = recorder->options.layer_count,
        .expert_count = recorder->options.expert_count,
        .k = recorder->options.k,
        .predicted_k = recorder->options.predicted_k};
    status = coterie_trace_allocate("recorder", COTERIE_ERR_INVALID, &shape,
                                    COTERIE_TRACE_WEIGHTS | COTERIE_TRACE_STEP |
                                        COTERIE_TRACE_PHASE |
                                        COTERIE_TRACE_TOKEN,
                                    &trace);
    if (status != COTERIE_OK)
        goto out;
    if (trace->predicted != NULL) /* none, until a row says otherwise */
        memset(trace->predicted, 0xff,
               merge.tokens * shape.layer_count * shape.predicted_k *
                   sizeof(*trace->predicted));
    merge_store(&merge, trace);
    *trace_p = trace;
out:
    free(merge.order);
    return status;
}

void coterie_trace_recorder_destroy(coterie_trace_recorder_t *recorder)
{
    if (recorder != NULL)
        free(recorder->rows);
    free(recorder);
}

static float *row_weights(const row_t *row)
{
    return (float *)(uintptr_t)(row + 1);
}

static int16_t *row_ids(const coterie_trace_recorder_t *recorder,
                        const row_t *row)
{
    return (int16_t *)(row_weights(row) + recorder->options.k);
}

static int16_t *row_predicted(const coterie_trace_recorder_t *recorder,
                              const row_t *row)
{
    return row_ids(recorder, row) + recorder->options.k;
}

static row_t *row_at(const coterie_trace_recorder_t *recorder, size_t index)
{
    return (row_t *)(void *)(recorder->rows + index * recorder->row_size);
}

static coterie_status_t rows_reserve(coterie_trace_recorder_t *recorder,
                                     size_t more)
{
    size_t needed = recorder->count + more, capacity = recorder->capacity;
    unsigned char *rows;

    if (needed <= capacity)
        return COTERIE_OK;
    if (capacity < ROWS_FIRST)
        capacity = ROWS_FIRST;
    while (capacity < needed)
        capacity *= 2;
    rows = realloc(recorder->rows, capacity * recorder->row_size);
    if (rows == NULL)
        return coterie_fail_memory(capacity * recorder->row_size,
                                   "recorded rows");
    recorder->rows = rows;
    recorder->capacity = capacity;
    return COTERIE_OK;
}

static coterie_status_t row_fill(const coterie_trace_recorder_t *recorder,
                                 const coterie_trace_rows_t *rows, uint32_t i,
                                 row_t *row)
{
    uint32_t k = recorder->options.k;
    uint32_t predicted_k = recorder->options.predicted_k;
    int16_t *predicted = row_predicted(recorder, row);
    coterie_status_t status;

    /* Rows are exported as bytes, and padding should not leak memory. */
    memset(row, 0, recorder->row_size);
    *row = (row_t){rows->sequence[i], rows->position[i], rows->layer,
                   rows->step, rows->phase,
                   rows->token != NULL ? rows->token[i] : -1};
    memcpy(row_weights(row), rows->topk_weights + (size_t)i * k,
           k * sizeof(float));
    status = ids_narrow(recorder, row, rows->topk_ids + (size_t)i * k, k,
                        row_ids(recorder, row));
    for (uint32_t j = 0; j < predicted_k; j++)
        predicted[j] = -1;
    if (status == COTERIE_OK && rows->predicted != NULL)
        status = ids_narrow(recorder, row,
                            rows->predicted + (size_t)i * predicted_k,
                            predicted_k, predicted);
    if (status == COTERIE_OK)
        status = row_check(recorder, row);
    return status;
}

static coterie_status_t ids_narrow(const coterie_trace_recorder_t *recorder,
                                   const row_t *row, const int32_t *ids,
                                   uint32_t count, int16_t *narrow)
{
    for (uint32_t i = 0; i < count; i++) {
        if (ids[i] < INT16_MIN || ids[i] > INT16_MAX)
            return id_fail(recorder, row, ids[i]);
        narrow[i] = (int16_t)ids[i];
    }
    return COTERIE_OK;
}

/* Also for imported rows: their bytes come from another process. */
static coterie_status_t row_check(const coterie_trace_recorder_t *recorder,
                                  const row_t *row)
{
    const coterie_trace_recorder_options_t *options = &recorder->options;
    const int16_t *ids = row_ids(recorder, row);
    uint32_t count = options->k + options->predicted_k;
    int16_t repeated = coterie_trace_repeated_id(ids, options->k);

    if (row->layer >= options->layer_count || row->sequence < 0 ||
        row->position < 0 || row->phase > COTERIE_PHASE_DECODE)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "recorded sequence %d, position %d, layer %u of "
                            "%u, phase %u: out of range",
                            row->sequence, row->position, row->layer,
                            options->layer_count, row->phase);
    for (uint32_t i = 0; i < count; i++)
        if (ids[i] < -1 || ids[i] >= (int)options->expert_count)
            return id_fail(recorder, row, ids[i]);
    if (repeated >= 0)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "sequence %d, position %d, layer %u: expert %d "
                            "comes twice in one set",
                            row->sequence, row->position, row->layer,
                            repeated);
    return COTERIE_OK;
}

static coterie_status_t id_fail(const coterie_trace_recorder_t *recorder,
                                const row_t *row, int id)
{
    return coterie_fail(COTERIE_ERR_INVALID,
                        "sequence %d, position %d, layer %u: expert %d; ids "
                        "go from 0 to %u (-1 = none)",
                        row->sequence, row->position, row->layer, id,
                        recorder->options.expert_count - 1);
}

/* By token, then layer, then as recorded (addresses in one array). */
static int row_compare(const void *a, const void *b)
{
    const row_t *one = *(const row_t *const *)a;
    const row_t *other = *(const row_t *const *)b;

    if (one->sequence != other->sequence)
        return one->sequence < other->sequence ? -1 : 1;
    if (one->position != other->position)
        return one->position < other->position ? -1 : 1;
    if (one->layer != other->layer)
        return one->layer < other->layer ? -1 : 1;
    return one < other ? -1 : 1;
}

/* Checks every token, and counts them. */
static coterie_status_t merge_check(merge_t *merge)
{
    size_t count = merge->recorder->count, end;

    for (size_t first = 0; first < count; first = end) {
        const row_t *row = merge->order[first];
        const row_t *before = first > 0 ? merge->order[first - 1] : NULL;
        int begins = before == NULL || before->sequence != row->sequence;
        coterie_status_t status;

        end = token_end(merge, first);
        status = token_check(merge, first, end);
        if (status != COTERIE_OK)
            return status;
        if (!begins && row->position != before->position + 1)
            return coterie_fail(COTERIE_ERR_INVALID,
                                "sequence %d: position %d follows %d; none "
                                "between may be missing",
                                row->sequence, row->position,
                                before->position);
        merge->sequences += begins;
        merge->tokens++;
    }
    return COTERIE_OK;
}

/* The first row behind the token whose rows begin at `first`. */
static size_t token_end(const merge_t *merge, size_t first)
{
    const row_t *row = merge->order[first];
    size_t end = first + 1;

    while (end < merge->recorder->count &&
           merge->order[end]->sequence == row->sequence &&
           merge->order[end]->position == row->position)
        end++;
    return end;
}

/* The token's rows, layer by layer: every layer is there, and rows that say
 * the same thing twice say the same. */
static coterie_status_t token_check(const merge_t *merge, size_t first,
                                    size_t end)
{
    const row_t **rows = merge->order;
    uint32_t layer_count = merge->recorder->options.layer_count, due = 0;

    for (size_t i = first; i < end; i++) {
        if (rows[i]->step != rows[first]->step ||
            rows[i]->phase != rows[first]->phase)
            return coterie_fail(COTERIE_ERR_INVALID,
                                "sequence %d, position %d: recorded in steps "
                                "%u and %u, phases %u and %u; a token has one",
                                rows[i]->sequence, rows[i]->position,
                                rows[first]->step, rows[i]->step,
                                rows[first]->phase, rows[i]->phase);
        if (i > first && rows[i]->layer == rows[i - 1]->layer) {
            coterie_status_t status =
                row_agree(merge->recorder, rows[i - 1], rows[i]);
            if (status != COTERIE_OK)
                return status;
        } else if (rows[i]->layer != due++)
            return missing(rows[i], due - 1);
    }
    return due < layer_count ? missing(rows[first], due) : COTERIE_OK;
}

/* In forward mode every rank of a token's set routes it; their bits are the
 * same, so ids that differ mean that something is badly wrong. */
static coterie_status_t row_agree(const coterie_trace_recorder_t *recorder,
                                  const row_t *one, const row_t *other)
{
    size_t size = recorder->options.k * sizeof(int16_t);

    if (memcmp(row_ids(recorder, one), row_ids(recorder, other), size) == 0)
        return COTERIE_OK;
    return coterie_fail(COTERIE_ERR_INVALID,
                        "sequence %d, position %d, layer %u: recorded twice, "
                        "with different experts",
                        one->sequence, one->position, one->layer);
}

static coterie_status_t missing(const row_t *row, uint32_t layer)
{
    return coterie_fail(COTERIE_ERR_INVALID,
                        "sequence %d, position %d: layer %u was not recorded",
                        row->sequence, row->position, layer);
}

static void merge_store(const merge_t *merge, coterie_trace_t *trace)
{
    uint64_t token = 0, sequence = 0;
    size_t end;

    for (size_t first = 0; first < merge->recorder->count; first = end) {
        const row_t **rows = merge->order + first;

        end = token_end(merge, first);
        if (first == 0 || rows[0]->sequence != rows[-1]->sequence)
            trace->seq_start[sequence++] = token;
        trace->step[token] = rows[0]->step;
        trace->phase[token] = (uint8_t)rows[0]->phase;
        trace->token[token] = -1; /* until a row says otherwise */
        /* Backwards: of rows recorded more than once, the first counts. */
        for (size_t i = end - first; i-- > 0;)
            row_store(merge->recorder, rows[i], token, trace);
        token++;
    }
    trace->seq_start[sequence] = token;
}

/* A row without a prediction leaves that of another rank's as it is. */
static void row_store(const coterie_trace_recorder_t *recorder,
                      const row_t *row, uint64_t token, coterie_trace_t *trace)
{
    uint32_t k = recorder->options.k;
    uint32_t predicted_k = recorder->options.predicted_k;
    uint64_t set = token * recorder->options.layer_count + row->layer;

    memcpy(trace->experts + set * k, row_ids(recorder, row),
           k * sizeof(int16_t));
    memcpy(trace->weights + set * k, row_weights(row), k * sizeof(float));
    if (row->token >= 0)
        trace->token[token] = row->token;
    if (row_predicts(recorder, row))
        memcpy(trace->predicted + set * predicted_k,
               row_predicted(recorder, row), predicted_k * sizeof(int16_t));
}

static int row_predicts(const coterie_trace_recorder_t *recorder,
                        const row_t *row)
{
    const int16_t *predicted = row_predicted(recorder, row);

    for (uint32_t i = 0; i < recorder->options.predicted_k; i++)
        if (predicted[i] >= 0)
            return 1;
    return 0;
}
