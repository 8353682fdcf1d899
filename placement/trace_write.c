#include "config.h"

#include "base/error.h"
#include "base/npz.h"
#include "placement/trace_object.h"

enum { ENTRY_COUNT = 8 };

static coterie_npz_entry_t entry(const char *key, const char *type,
                                 const uint64_t *shape, const void *data);

coterie_status_t coterie_trace_write(const coterie_trace_t *trace,
                                     const char *path, int force)
{
    coterie_npz_entry_t entries[ENTRY_COUNT];
    size_t count = 0;

    if (trace == NULL || path == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "coterie_trace_write: a trace and a path are "
                            "required");
    const coterie_trace_view_t *view = &trace->view;
    uint64_t ids[] = {view->token_count, view->layer_count, view->k, 0};
    uint64_t guesses[] = {view->token_count, view->layer_count,
                          view->predicted_k, 0};
    uint64_t starts[] = {view->sequence_count + 1, 0}, tokens[] = {ids[0], 0};
    uint64_t scalar[] = {0};

    entries[count++] = entry("experts", "i2", ids, view->experts);
    entries[count++] = entry("seq_start", "u8", starts, view->seq_start);
    /* Without it, experts that were never chosen could not be counted. */
    entries[count++] = entry("expert_count", "u4", scalar, &view->expert_count);
    if (view->weights != NULL)
        entries[count++] = entry("weights", "f4", ids, view->weights);
    if (view->predicted != NULL)
        entries[count++] = entry("predicted", "i2", guesses, view->predicted);
    if (view->step != NULL)
        entries[count++] = entry("step", "u4", tokens, view->step);
    if (view->phase != NULL)
        entries[count++] = entry("phase", "u1", tokens, view->phase);
    if (view->token != NULL)
        entries[count++] = entry("token", "i4", tokens, view->token);
    return coterie_npz_write(path, force, entries, count);
}

static coterie_npz_entry_t entry(const char *key, const char *type,
                                 const uint64_t *shape, const void *data)
{
    return (coterie_npz_entry_t){key, coterie_npy_describe(type, shape, data)};
}
