#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "tools/budget.h"
#include "tools/rank.h"

static coterie_status_t counts_collect(rank_t *r, results_t *results);
static void counts_add(const coterie_counts_t *from, coterie_counts_t *to);
static coterie_status_t tokens_collect(rank_t *r, results_t *results);
static coterie_status_t logits_collect(rank_t *r, results_t *results);
static coterie_status_t logits_merge(const rank_t *r, const uint8_t *seen,
                                     const float *rows, results_t *results);
static coterie_status_t trace_collect(rank_t *r, results_t *results);

coterie_status_t rank_collect(rank_t *r, results_t *results)
{
    coterie_status_t status = counts_collect(r, results);

    if (status == COTERIE_OK) /* by now every rank has made its last step */
        status = budget_collect(r, results);
    if (status == COTERIE_OK)
        status = tokens_collect(r, results);
    if (status == COTERIE_OK && r->logits != NULL)
        status = logits_collect(r, results);
    if (status == COTERIE_OK && r->recorder != NULL)
        status = trace_collect(r, results);
    return status;
}

/* Occasions are the same on every rank; what was sent adds up. */
static coterie_status_t counts_collect(rank_t *r, results_t *results)
{
    const rank_counts_t *mine = &r->sent;
    rank_counts_t *all = malloc(r->count * sizeof(*all));
    coterie_status_t status = COTERIE_ERR_NO_MEMORY;

    if (all == NULL)
        return failure(status, "out of memory");
    status = coterie_transport_allgather(r->transport, mine, sizeof(*mine),
                                         all);
    for (uint32_t i = 0; status == COTERIE_OK && r->index == 0 && i < r->count;
         i++) {
        counts_add(&all[i].counts[0], &results->counts[0]);
        counts_add(&all[i].counts[1], &results->counts[1]);
        results->times.exchange_ns += all[i].times.exchange_ns / r->count;
        results->times.wait_ns += all[i].times.wait_ns / r->count;
        results->times.experts_ns += all[i].times.experts_ns / r->count;
    }
    if (r->index == 0)
        memcpy(results->times.steps_by_mode, mine->times.steps_by_mode,
               sizeof(mine->times.steps_by_mode));
    free(all);
    return status;
}

static void counts_add(const coterie_counts_t *from, coterie_counts_t *to)
{
    to->steps = from->steps;
    to->alltoalls = from->alltoalls;
    to->returns = from->returns;
    to->node_alltoalls = from->node_alltoalls;
    to->kv_gathers = from->kv_gathers;
    to->tokens += from->tokens;
    to->fixup_sends += from->fixup_sends;
    to->copies_dispatch += from->copies_dispatch;
    to->copies_return += from->copies_return;
    to->copies_forward += from->copies_forward;
    to->copies_fixup += from->copies_fixup;
    to->copies_network += from->copies_network;
    to->copies_kv += from->copies_kv;
    to->payload_bytes += from->payload_bytes;
    to->wire_bytes += from->wire_bytes;
    to->kv_bytes += from->kv_bytes;
    to->messages += from->messages;
    to->empty_messages += from->empty_messages;
}

/* A token is sampled by one rank, or by several that agree. */
static coterie_status_t tokens_collect(rank_t *r, results_t *results)
{
    const prompts_t *p = &r->job->prompts;
    uint64_t total = p->start[p->count];
    size_t *sizes = malloc(r->count * sizeof(*sizes));
    void *all = NULL;
    coterie_status_t status = COTERIE_ERR_NO_MEMORY;

    if (sizes == NULL)
        return failure(status, "out of memory");
    status = coterie_transport_gather(r->transport, r->tokens,
                                      total * sizeof(*r->tokens), &all, sizes);
    for (uint64_t i = 0; status == COTERIE_OK && r->index == 0 &&
                         i < r->count * total; i++) {
        int32_t *mine = &r->tokens[i % total], other = ((int32_t *)all)[i];
        if (*mine < 0)
            *mine = other;
        else if (other >= 0 && other != *mine)
            status = failure(COTERIE_ERR_MISMATCH,
                             "ranks sampled %d and %d for the same token",
                             *mine, other);
    }
    if (status == COTERIE_OK && r->index == 0) {
        results->tokens = r->tokens;
        r->tokens = NULL;
    }
    free(all);
    free(sizes);
    return status;
}

/* Ranks send the rows they have, and which those are. */
static coterie_status_t logits_collect(rank_t *r, results_t *results)
{
    const prompts_t *p = &r->job->prompts;
    uint64_t total = p->start[p->count], rows = 0;
    size_t width = r->job->weights->config.vocab * sizeof(float);
    size_t *sizes = malloc(r->count * sizeof(*sizes));
    void *seen = NULL, *all = NULL;
    coterie_status_t status = COTERIE_ERR_NO_MEMORY;

    if (sizes == NULL)
        return failure(status, "out of memory");
    for (uint64_t i = 0; i < total; i++)
        if (r->seen[i])
            memmove((char *)r->logits + rows++ * width,
                    (char *)r->logits + i * width, width);
    status = coterie_transport_gather(r->transport, r->seen, total, &seen,
                                      sizes);
    if (status == COTERIE_OK)
        status = coterie_transport_gather(r->transport, r->logits,
                                          rows * width, &all, sizes);
    if (status == COTERIE_OK && r->index == 0)
        status = logits_merge(r, seen, all, results);
    free(seen);
    free(all);
    free(sizes);
    return status;
}

/* Rows of each rank, in order of position, become one array in that order.
 * In forward mode several ranks have the same row, of the same bits. */
static coterie_status_t logits_merge(const rank_t *r, const uint8_t *seen,
                                     const float *rows, results_t *results)
{
    const prompts_t *p = &r->job->prompts;
    uint64_t total = p->start[p->count];
    size_t vocab = r->job->weights->config.vocab;
    float *logits = malloc(total * vocab * sizeof(*logits));
    uint64_t used = 0;

    if (logits == NULL)
        return failure(COTERIE_ERR_NO_MEMORY, "no memory for logits");
    memset(r->seen, 0, total);
    for (uint64_t i = 0; i < r->count * total; i++) {
        if (!seen[i])
            continue;
        memcpy(logits + i % total * vocab, rows, vocab * sizeof(*logits));
        r->seen[i % total] = 1;
        rows += vocab;
    }
    for (uint64_t i = 0; i < total; i++)
        if (r->seen[i])
            memmove(logits + used++ * vocab, logits + i * vocab,
                    vocab * sizeof(*logits));
    results->logits = logits;
    results->logits_rows = used;
    return COTERIE_OK;
}

/* Recorders travel as bytes; the first rank's takes all others in. */
static coterie_status_t trace_collect(rank_t *r, results_t *results)
{
    size_t *sizes = malloc(r->count * sizeof(*sizes)), size = 0;
    void *mine = NULL, *all = NULL;
    coterie_status_t status = COTERIE_ERR_NO_MEMORY;

    if (sizes == NULL)
        return failure(status, "out of memory");
    status = coterie_trace_recorder_export(r->recorder, &mine, &size);
    if (status == COTERIE_OK)
        status =
            coterie_transport_gather(r->transport, mine, size, &all, sizes);
    if (status == COTERIE_OK && r->index == 0) {
        char *at = (char *)all + sizes[0]; /* its own it has */
        for (uint32_t i = 1; i < r->count && status == COTERIE_OK; i++) {
            status = coterie_trace_recorder_import(r->recorder, at, sizes[i]);
            at += sizes[i];
        }
        if (status == COTERIE_OK)
            status = coterie_trace_recorder_finish(r->recorder,
                                                   &results->trace);
    }
    free(mine);
    free(all);
    free(sizes);
    return status;
}
