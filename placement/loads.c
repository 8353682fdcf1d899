#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <coterie/loads.h>

#include "base/error.h"
#include "placement/placement.h"

struct coterie_loads {
    coterie_loads_view_t view; /* points at the array below */
    double load[];
};

static coterie_status_t shape_check(const coterie_loads_view_t *shape);
static coterie_status_t loads_check(const coterie_loads_view_t *arrays);

coterie_status_t coterie_loads_create(const coterie_loads_view_t *arrays,
                                      coterie_loads_t **loads_p)
{
    coterie_status_t status;
    coterie_loads_t *loads;
    size_t size;

    if (arrays == NULL || loads_p == NULL || arrays->load == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "coterie_loads_create: loads and a place for the "
                            "result are required");
    status = shape_check(arrays);
    if (status == COTERIE_OK)
        status = loads_check(arrays);
    if (status != COTERIE_OK)
        return status;
    size = arrays->window_count * arrays->layer_count *
           arrays->expert_count * sizeof(loads->load[0]);
    loads = malloc(sizeof(*loads) + size);
    if (loads == NULL)
        return coterie_fail_memory(size, "loads");
    memcpy(loads->load, arrays->load, size);
    loads->view = *arrays;
    loads->view.load = loads->load;
    *loads_p = loads;
    return COTERIE_OK;
}

void coterie_loads_view(const coterie_loads_t *loads,
                        coterie_loads_view_t *view)
{
    *view = loads->view;
}

void coterie_loads_destroy(coterie_loads_t *loads)
{
    free(loads);
}

/* Within these limits no product of counts overflows 64 bits. */
static coterie_status_t shape_check(const coterie_loads_view_t *shape)
{
    if (shape->window_count == 0 || shape->window_count > UINT32_MAX ||
        shape->layer_count == 0 || shape->layer_count > COTERIE_LAYERS_MAX ||
        shape->expert_count == 0 || shape->expert_count > COTERIE_EXPERTS_MAX)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "loads: %llu windows of %u layers and %u experts; "
                            "1 or more, 1 to %d and 1 to %d would do",
                            (unsigned long long)shape->window_count,
                            shape->layer_count, shape->expert_count,
                            COTERIE_LAYERS_MAX, COTERIE_EXPERTS_MAX);
    return COTERIE_OK;
}

static coterie_status_t loads_check(const coterie_loads_view_t *arrays)
{
    uint64_t layers = arrays->layer_count, experts = arrays->expert_count;

    for (uint64_t i = 0; i < arrays->window_count * layers * experts; i++)
        if (!isfinite(arrays->load[i]) || arrays->load[i] < 0)
            return coterie_fail(COTERIE_ERR_INVALID,
                                "loads: window %llu, layer %llu, expert %llu "
                                "has %g; a count is 0 or more",
                                (unsigned long long)(i / experts / layers),
                                (unsigned long long)(i / experts % layers),
                                (unsigned long long)(i % experts),
                                arrays->load[i]);
    return COTERIE_OK;
}
