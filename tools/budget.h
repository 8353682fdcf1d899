#ifndef COTERIE_TOOLS_BUDGET_H
#define COTERIE_TOOLS_BUDGET_H
/* `coterie run --budget`: experts in tiers. */
#include <stdio.h>

#include <jansson.h>

#include "tools/rank.h"

/* Reads what the options say about tiers. A hot file that does not exist yet is
 * an empty one. */
coterie_status_t budget_options_read(job_t *job);

/* Opens the job's tiers if it has a budget, which is for all ranks together:
 * those on one machine share its part, be they threads or processes.
 * @param transport  of ranks that are processes, which call this together; or
 *                   NULL */
coterie_status_t budget_open(job_t *job, coterie_transport_t *transport);

/* What all ranks' tiers counted, for rank 0. Collective. */
coterie_status_t budget_collect(const rank_t *r, results_t *results);

/* Those of one rank, as budget_collect's part. Collective. */
coterie_status_t budget_layers_collect(const rank_t *r, results_t *results);

/* Adds `layers` and `timeline` to the object. */
void budget_layers_json(const results_t *results, uint32_t layers,
                        json_t *object);

/* Keeps the hot counts for the next run, if that was asked for. */
coterie_status_t budget_hot_write(const job_t *job, const results_t *results);

json_t *budget_json(const job_t *job, const results_t *results);
void budget_print(FILE *stream, const job_t *job, const results_t *results);

#endif
