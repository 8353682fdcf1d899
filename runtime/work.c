#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "runtime/session.h"

static coterie_expert_rows_t group_by_slot(coterie_session_t *s);

coterie_status_t coterie_work_create(coterie_session_t *s)
{
    coterie_work_t *work = &s->work;
    size_t rows = s->options.max_rows, pairs = rows * s->options.k;
    size_t floats = rows * s->options.hidden;

    work->jobs = calloc(rows, sizeof(*work->jobs));
    work->x = calloc(floats, sizeof(float));
    work->sums = calloc(floats, sizeof(float));
    work->pair_slot = calloc(pairs, sizeof(uint32_t));
    work->pair_job = calloc(pairs, sizeof(uint32_t));
    work->pair_weight = calloc(pairs, sizeof(float));
    work->first = calloc(s->slot_count + 2, sizeof(uint32_t));
    work->row = calloc(pairs, sizeof(uint32_t));
    work->weight = calloc(pairs, sizeof(float));
    if (s->engine.experts == NULL)
        work->scratch = malloc(coterie_bank_scratch(s->options.bank));
    if (work->jobs == NULL || work->x == NULL || work->sums == NULL ||
        work->pair_slot == NULL || work->pair_job == NULL ||
        work->pair_weight == NULL || work->first == NULL ||
        work->row == NULL || work->weight == NULL ||
        (s->engine.experts == NULL && work->scratch == NULL))
        return coterie_fail_memory(2 * floats * sizeof(float),
                                   "the experts' rows");
    return COTERIE_OK;
}

void coterie_work_destroy(coterie_work_t *work)
{
    free(work->jobs);
    free(work->x);
    free(work->sums);
    free(work->pair_slot);
    free(work->pair_job);
    free(work->pair_weight);
    free(work->first);
    free(work->row);
    free(work->weight);
    free(work->scratch);
}

void coterie_work_begin(coterie_work_t *work)
{
    work->count = work->done = work->pair_count = 0;
}

coterie_status_t coterie_work_add(coterie_session_t *s,
                                  const coterie_job_t *job,
                                  const coterie_route_t *route,
                                  const float *weights, const float *normed)
{
    coterie_work_t *work = &s->work;

    if (work->count == s->options.max_rows)
        return coterie_fail(COTERIE_ERR_CAPACITY,
                            "rank %u has more rows to compute than max_rows, "
                            "%u",
                            s->rank, s->options.max_rows);
    for (uint32_t i = 0; i < s->options.k; i++) {
        if (route->serving[i] != s->rank)
            continue;
        work->pair_slot[work->pair_count] = route->slot[i] - s->slot_first;
        work->pair_job[work->pair_count] = work->count;
        work->pair_weight[work->pair_count++] = weights[i];
    }
    if (normed != NULL)
        memcpy(work->x + coterie_row(s, work->count), normed,
               s->options.hidden * sizeof(float));
    work->jobs[work->count++] = *job;
    return COTERIE_OK;
}

coterie_status_t coterie_work_run(coterie_session_t *s)
{
    coterie_work_t *work = &s->work;
    coterie_status_t status = COTERIE_OK;
    uint64_t start = coterie_now_ns();
    const float *x = work->x + coterie_row(s, work->done);
    float *sums = work->sums + coterie_row(s, work->done);
    coterie_expert_rows_t rows;

    if (work->count == work->done)
        return COTERIE_OK;
    rows = group_by_slot(s);
    memset(sums, 0,
           (size_t)rows.row_count * s->options.hidden * sizeof(float));
    if (s->engine.experts != NULL)
        status = s->engine.experts(s->engine.engine, s->layer, &rows, x, sums);
    else
        status = coterie_bank_compute(s->options.bank, s->layer, &rows, x,
                                      sums, work->scratch);
    work->done = work->count;
    work->pair_count = 0;
    s->times.experts_ns += coterie_now_ns() - start;
    return status;
}

/* A counting sort, which is stable: rows ascend within a slot, so that a row's
 * sum has one order whatever the batch. first[] is kept one entry ahead while
 * it serves as the place to write to. */
static coterie_expert_rows_t group_by_slot(coterie_session_t *s)
{
    coterie_work_t *work = &s->work;
    uint32_t *at = work->first + 1;

    memset(work->first, 0, (s->slot_count + 2) * sizeof(*work->first));
    for (uint32_t i = 0; i < work->pair_count; i++)
        at[work->pair_slot[i] + 1]++;
    for (uint32_t slot = 0; slot < s->slot_count; slot++)
        at[slot + 1] += at[slot];
    for (uint32_t i = 0; i < work->pair_count; i++) {
        uint32_t to = at[work->pair_slot[i]]++;

        work->row[to] = work->pair_job[i] - work->done;
        work->weight[to] = work->pair_weight[i];
    }
    return (coterie_expert_rows_t){s->slot_count, work->count - work->done,
                                   work->first, work->row, work->weight};
}
