#include "config.h"

#include <errno.h>
#include <stdlib.h>

#include "tools/budget.h"

const char *const policy_names[] = {"lru", "lfu", "cost", NULL};

static coterie_status_t budget_parse(const char *text,
                                     coterie_tiers_options_t *options);
static void counts_add(const coterie_tiers_counts_t *from,
                       coterie_tiers_counts_t *to);
static double part(uint64_t some, uint64_t all);

/* Every count but its own size: added up, printed. */
#define TIERS_MAP(X)                                                       \
    X(budget) X(resident) X(resident_most) X(uses) X(hits) X(demand_reads) \
    X(guess_reads) X(guesses_used) X(guesses_wasted) X(bytes) X(retries)

coterie_status_t budget_open(job_t *job)
{
    const run_options_t *o = job->options;
    coterie_tiers_options_t options = COTERIE_TIERS_OPTIONS_INIT;
    coterie_status_t status;

    if (o->budget == NULL)
        return COTERIE_OK;
    status = budget_parse(o->budget, &options);
    if (status != COTERIE_OK)
        return status;
    options.policy = o->policy;
    if (o->transport == TRANSPORT_MPI) {
        options.budget /= o->ranks;
        options.budget_percent /= o->ranks;
    }
    return coterie_tiers_create(job->model, &options, &job->tiers);
}

coterie_status_t budget_collect(const rank_t *r, results_t *results)
{
    coterie_tiers_counts_t mine, *all;
    bool shared = r->job->options->transport == TRANSPORT_THREADS;
    uint32_t objects = shared ? 1 : r->count;
    coterie_status_t status = COTERIE_OK;

    if (r->job->tiers == NULL)
        return COTERIE_OK;
    coterie_tiers_counts(r->job->tiers, &mine);
    all = malloc(r->count * sizeof(*all));
    if (all == NULL)
        return failure(COTERIE_ERR_NO_MEMORY, "out of memory");
    status = coterie_transport_allgather(r->transport, &mine, sizeof(mine),
                                         all);
    for (uint32_t i = 0;
         status == COTERIE_OK && r->index == 0 && i < objects; i++)
        counts_add(&all[i], &results->tiers);
    free(all);
    return status;
}

json_t *budget_json(const job_t *job, const results_t *results)
{
    const coterie_tiers_counts_t *c = &results->tiers;
    char reading[128];
    json_t *object;

    coterie_tiers_describe(job->tiers, reading, sizeof(reading));
    object = json_pack("{s:s, s:s, s:f, s:f}", "policy",
                       policy_names[job->options->policy], "reading", reading,
                       "hit_rate", part(c->hits, c->uses), "stall_s",
                       1e-9 * (double)c->stall_ns);
#define X(field)                        \
    json_object_set_new(object, #field, \
                        json_integer((json_int_t)c->field));
    TIERS_MAP(X)
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
            "  reads because a rank waited           %8llu\n"
            "  reads on a guess, and wasted          %8llu %8llu\n"
            "  MB read                               %8.1f\n"
            "  ranks waited for reads                %8.3f s\n",
            1e-6 * (double)c->resident_most, 1e-6 * (double)c->budget,
            policy_names[job->options->policy], reading,
            (unsigned long long)c->uses, 100 * part(c->hits, c->uses),
            (unsigned long long)c->demand_reads,
            (unsigned long long)c->guess_reads,
            (unsigned long long)c->guesses_wasted, 1e-6 * (double)c->bytes,
            1e-9 * (double)c->stall_ns);
}

/* "25%", or bytes. Whether the model fits is for the tiers to say. */
static coterie_status_t budget_parse(const char *text,
                                     coterie_tiers_options_t *options)
{
    char *end;
    bool negative = text[0] == '-';
    unsigned long long bytes;

    errno = 0;
    bytes = strtoull(text, &end, 10);
    if (end != text && *end == '\0' && errno == 0 && !negative && bytes > 0) {
        options->budget = bytes;
        return COTERIE_OK;
    }
    options->budget_percent = strtod(text, &end);
    if (end != text && end[0] == '%' && end[1] == '\0' &&
        options->budget_percent > 0)
        return COTERIE_OK;
    return failure(COTERIE_ERR_INVALID,
                   "--budget %s: give bytes, or a percentage such as 25%%",
                   text);
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
