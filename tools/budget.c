#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/budget.h"
#include "tools/modes.h"
#include "tools/report.h"

static coterie_status_t budget_parse(const char *option, const char *text,
                                     uint64_t *bytes_p, double *percent_p);
static void device_budget_set(job_t *job);
static coterie_status_t hot_read(const job_t *job, uint64_t **hot_p);
static size_t items_of(const job_t *job);
static coterie_status_t counts_collect(const rank_t *r, results_t *results);
static coterie_status_t device_collect(const rank_t *r, results_t *results);
static json_t *device_json(const results_t *results);
static void device_print(FILE *stream, const results_t *results);
static coterie_status_t hot_collect(const rank_t *r, results_t *results);
static void counts_add(const coterie_tiers_counts_t *from,
                       coterie_tiers_counts_t *to);
static double part(uint64_t some, uint64_t all);

enum { ON_THEIR_WAY = 4 }; /* experts, of each rank */

/* Every count but its own size: added up, printed. */
#define TIERS_MAP(X)                                                       \
    X(budget) X(resident) X(resident_most) X(uses) X(hits) X(preloads)     \
    X(demand_reads) X(guess_reads) X(guesses_used) X(guesses_wasted)       \
    X(bytes) X(retries) X(host_budget) X(computed_in_host) X(moved_to_fast) \
    X(processes)

#define DEVICE_MAP(X)                                      \
    X(uses) X(hits) X(copies) X(computed_here) X(bytes)    \
    X(ahead_copies) X(ahead_used) X(ahead_wasted)

coterie_status_t budget_options_read(job_t *job)
{
    const run_options_t *o = job->options;
    coterie_tiers_options_t *budget = &job->budget;
    coterie_status_t status;

    if (o->budget == NULL && o->hot != NULL)
        return failure(COTERIE_ERR_INVALID, "--hot needs a --budget");
    if (o->budget == NULL && o->host_budget != NULL)
        return failure(COTERIE_ERR_INVALID,
                       "--host-budget needs a --budget");
    if (o->tiers != NULL && (o->budget == NULL || o->hot != NULL))
        return failure(COTERIE_ERR_INVALID,
                       "--tiers needs a --budget, and no --hot, which says "
                       "the same");
    if (o->budget == NULL)
        return COTERIE_OK;
    *budget = (coterie_tiers_options_t){.size = sizeof(*budget),
                                        .policy = o->policy,
                                        .polling = o->polling};
    status = budget_parse("--budget", o->budget, &budget->budget,
                          &budget->budget_percent);
    if (status == COTERIE_OK && o->host_budget != NULL)
        status = budget_parse("--host-budget", o->host_budget,
                              &budget->host_budget, &budget->host_percent);
    if (status == COTERIE_OK && (o->hot != NULL || o->tiers != NULL))
        status = hot_read(job, &job->hot);
    budget->hot = job->hot;
    if (status == COTERIE_OK && o->device != NULL)
        device_budget_set(job);
    return status;
}

/* With a device the budget is of its memory, and the tiers have the rest. Where
 * that is nothing, they keep what is on its way. */
static void device_budget_set(job_t *job)
{
    coterie_tiers_options_t *budget = &job->budget;
    coterie_expert_format_t format;
    uint64_t all;

    coterie_model_expert_format(job->model, &format);
    all = items_of(job) * format.record_size;
    job->device_budget =
        budget->budget > 0
            ? budget->budget
            : (uint64_t)((double)all / 100 * budget->budget_percent) + 1;
    budget->budget = budget->host_budget;
    budget->budget_percent = budget->host_percent;
    budget->host_budget = 0;
    budget->host_percent = 0;
    if (budget->budget == 0 && budget->budget_percent <= 0)
        budget->budget = format.record_size * ON_THEIR_WAY *
                         job->options->ranks;
}

coterie_status_t budget_open(job_t *job, coterie_transport_t *transport)
{
    if (job->options->budget == NULL)
        return COTERIE_OK;
    if (transport == NULL)
        return coterie_tiers_create(job->model, &job->budget, &job->tiers);
    return coterie_tiers_create_together(transport, job->model, &job->budget,
                                         &job->tiers);
}

coterie_status_t budget_collect(const rank_t *r, results_t *results)
{
    coterie_status_t status = COTERIE_OK;

    if (r->job->tiers != NULL)
        status = counts_collect(r, results);
    if (status == COTERIE_OK && r->job->tiers != NULL)
        status = budget_layers_collect(r, results);
    if (status == COTERIE_OK && r->job->device_budget > 0)
        status = device_collect(r, results);
    if (status == COTERIE_OK && r->job->options->hot != NULL)
        status = hot_collect(r, results);
    return status;
}

coterie_status_t budget_hot_write(const job_t *job, const results_t *results)
{
    const coterie_model_config_t *c = &job->weights->config;

    if (job->options->hot == NULL)
        return COTERIE_OK;
    return coterie_hot_write(job->options->hot, c->moe_layers, c->experts,
                             results->hot);
}

json_t *budget_json(const job_t *job, const results_t *results)
{
    const coterie_tiers_counts_t *c = &results->tiers;
    char reading[128];
    coterie_host_t host;
    json_t *object;

    coterie_tiers_describe(job->tiers, reading, sizeof(reading));
    coterie_host_examine(&host);
    object = json_pack("{s:s, s:s, s:i, s:f, s:f, s:o}", "policy",
                       policy_names[job->options->policy], "reading", reading,
                       "tiers", (int)results->tiers_count,
                       "hit_rate", part(c->hits, c->uses), "stall_s",
                       1e-9 * (double)c->stall_ns, "memory_limit",
                       bytes_json(host.limit));
#define X(field)                        \
    json_object_set_new(object, #field, \
                        json_integer((json_int_t)c->field));
    TIERS_MAP(X)
#undef X
    if (job->device_budget > 0)
        json_object_set_new(object, "device", device_json(results));
    budget_layers_json(results, job->weights->config.moe_layers, object);
    return object;
}

static json_t *device_json(const results_t *results)
{
    const coterie_bank_counts_t *c = &results->device;
    json_t *object = json_pack("{s:f}", "hit_rate", part(c->hits, c->uses));

#define X(field)                        \
    json_object_set_new(object, #field, \
                        json_integer((json_int_t)c->field));
    DEVICE_MAP(X)
#undef X
    return object;
}

void budget_print(FILE *stream, const job_t *job, const results_t *results)
{
    const coterie_tiers_counts_t *c = &results->tiers;
    char reading[128];

    coterie_tiers_describe(job->tiers, reading, sizeof(reading));
    fprintf(stream,
            "experts: at most %.1f of %.1f MB in memory (%s); %s\n"
            "  uses, and of these in memory          %8llu %8.1f %%\n"
            "  computed in plain memory, and moved   %8llu %8llu\n"
            "  reads because a rank waited           %8llu\n"
            "  reads of what was hot before          %8llu\n"
            "  reads on a guess, and wasted          %8llu %8llu\n"
            "  MB read                               %8.1f\n"
            "  ranks waited for reads                %8.3f s\n",
            1e-6 * (double)c->resident_most,
            1e-6 * (double)(c->budget + c->host_budget),
            policy_names[job->options->policy], reading,
            (unsigned long long)c->uses, 100 * part(c->hits, c->uses),
            (unsigned long long)c->computed_in_host,
            (unsigned long long)c->moved_to_fast,
            (unsigned long long)c->demand_reads,
            (unsigned long long)c->preloads,
            (unsigned long long)c->guess_reads,
            (unsigned long long)c->guesses_wasted, 1e-6 * (double)c->bytes,
            1e-9 * (double)c->stall_ns);
    if (job->device_budget > 0)
        device_print(stream, results);
}

static void device_print(FILE *stream, const results_t *results)
{
    const coterie_bank_counts_t *c = &results->device;

    fprintf(stream,
            "device: uses, and of experts there        %8llu %8.1f %%\n"
            "  copied there as needed                %8llu\n"
            "  copied ahead, used, and wasted        %8llu %8llu %8llu\n"
            "  MB copied                             %8.1f\n"
            "  computed by the processor             %8llu\n",
            (unsigned long long)c->uses, 100 * part(c->hits, c->uses),
            (unsigned long long)c->copies,
            (unsigned long long)c->ahead_copies,
            (unsigned long long)c->ahead_used,
            (unsigned long long)c->ahead_wasted, 1e-6 * (double)c->bytes,
            (unsigned long long)c->computed_here);
}

/* "25%", or bytes, or "8G". Whether an expert fits is for the tiers to say. */
static coterie_status_t budget_parse(const char *option, const char *text,
                                     uint64_t *bytes_p, double *percent_p)
{
    static const char units[] = "KMGT";
    char *end;
    double number = strtod(text, &end);
    const char *unit = *end != '\0' ? strchr(units, *end) : NULL;
    double bytes = number;

    if (unit != NULL)
        bytes = ldexp(number, 10 * (int)(unit - units + 1));
    if (end != text && number > 0 && strcmp(end, "%") == 0)
        *percent_p = number;
    else if (end != text && bytes >= 1 && bytes < (double)INT64_MAX &&
             (*end == '\0' || (unit != NULL && end[1] == '\0')))
        *bytes_p = (uint64_t)bytes;
    else
        return failure(COTERIE_ERR_INVALID,
                       "%s %s: give bytes, as in 8G or 500M, or a percentage, "
                       "as in 25%%",
                       option, text);
    return COTERIE_OK;
}

static coterie_status_t hot_read(const job_t *job, uint64_t **hot_p)
{
    const coterie_model_config_t *c = &job->weights->config;
    uint64_t *hot = calloc(items_of(job), sizeof(*hot));
    coterie_status_t status;

    if (hot == NULL)
        return failure(COTERIE_ERR_NO_MEMORY, "out of memory");
    if (job->options->tiers != NULL)
        status = coterie_tiering_read(job->options->tiers, c->moe_layers,
                                      c->experts, hot);
    else
        status = coterie_hot_read(job->options->hot, c->moe_layers,
                                  c->experts, hot);
    if (status == COTERIE_ERR_NOT_FOUND && job->options->hot != NULL)
        status = COTERIE_OK;
    if (status == COTERIE_OK)
        *hot_p = hot;
    else
        free(hot);
    return status;
}

static size_t items_of(const job_t *job)
{
    const coterie_model_config_t *c = &job->weights->config;

    return (size_t)c->moe_layers * c->experts;
}

static coterie_status_t counts_collect(const rank_t *r, results_t *results)
{
    coterie_tiers_counts_t mine, *all;
    bool shared = r->job->options->transport == TRANSPORT_THREADS;
    uint32_t objects = shared ? 1 : r->count;
    coterie_status_t status = COTERIE_OK;

    coterie_tiers_counts(r->job->tiers, &mine);
    all = malloc(r->count * sizeof(*all));
    if (all == NULL)
        return failure(COTERIE_ERR_NO_MEMORY, "out of memory");
    status = coterie_transport_allgather(r->transport, &mine, sizeof(mine),
                                         all);
    for (uint32_t i = 0;
         status == COTERIE_OK && r->index == 0 && i < objects; i++) {
        if (all[i].processes == 0) /* another process's, which counts */
            continue;
        counts_add(&all[i], &results->tiers);
        results->tiers_count++;
    }
    free(all);
    return status;
}

static coterie_status_t device_collect(const rank_t *r, results_t *results)
{
    coterie_bank_counts_t mine, *all = malloc(r->count * sizeof(*all));
    coterie_status_t status;

    if (all == NULL)
        return failure(COTERIE_ERR_NO_MEMORY, "out of memory");
    coterie_bank_device_counts(r->bank, &mine);
    status = coterie_transport_allgather(r->transport, &mine, sizeof(mine),
                                         all);
    for (uint32_t i = 0; status == COTERIE_OK && r->index == 0 && i < r->count;
         i++) {
#define X(field) results->device.field += all[i].field;
        DEVICE_MAP(X)
#undef X
    }
    free(all);
    return status;
}

/* Processes started from the same counts and each added its own experts'. */
static coterie_status_t hot_collect(const rank_t *r, results_t *results)
{
    size_t items = items_of(r->job), size = items * sizeof(uint64_t);
    uint64_t *mine = malloc(size), *all = malloc(r->count * size);
    coterie_status_t status = COTERIE_ERR_NO_MEMORY;

    if (mine == NULL || all == NULL) {
        failure(status, "out of memory");
        goto out;
    }
    coterie_tiers_hot(r->job->tiers, mine);
    status = coterie_transport_allgather(r->transport, mine, size, all);
    if (status != COTERIE_OK || r->index != 0)
        goto out;
    for (size_t i = 0; i < r->count * items; i++)
        if (all[i] > mine[i % items])
            mine[i % items] = all[i];
    results->hot = mine;
    mine = NULL; /* it is the results' now */
out:
    free(mine);
    free(all);
    return status;
}

static void counts_add(const coterie_tiers_counts_t *from,
                       coterie_tiers_counts_t *to)
{
#define X(field) to->field += from->field;
    TIERS_MAP(X)
#undef X
    to->stall_ns += from->stall_ns;
}

static double part(uint64_t some, uint64_t all)
{
    return all > 0 ? (double)some / (double)all : 0;
}
