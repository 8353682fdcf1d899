/* Forward between nodes: in each node one rank, at the home's place, holds a
 * row. It has the row's experts in its own node computed by an ordinary
 * exchange there, and forwards the node's sum to its fellows. */
#include "config.h"

#include <string.h>

#include "runtime/session.h"

static void plan(coterie_session_t *s, const coterie_rows_t *in);
static void find_nodes(const coterie_session_t *s, coterie_plan_t *plan);
static void stay_in_node(const coterie_session_t *s, coterie_route_t *route);
static coterie_status_t add_node_parts(coterie_session_t *s);

coterie_status_t coterie_exchange_nodes(coterie_session_t *s,
                                        const coterie_rows_t *in,
                                        coterie_rows_t *out)
{
    coterie_status_t status;

    plan(s, in);
    status = coterie_collect_sums(s, &s->node, in);
    if (status == COTERIE_OK)
        status = add_node_parts(s);
    coterie_collect_close(s);
    if (status == COTERIE_OK)
        status = coterie_forward_sums(s, &s->across, in, out);
    return status;
}

static void plan(coterie_session_t *s, const coterie_rows_t *in)
{
    for (uint32_t i = 0; i < in->count; i++) {
        coterie_plan_t *plan = &s->plans[i];

        coterie_route(s->options.placement, s->layer,
                      in->topk_ids + (size_t)i * s->options.k, s->options.k,
                      COTERIE_NONE, &plan->route);
        plan->route.next_owner = (uint16_t)s->rank;
        plan->next = COTERIE_SET_ALL;
        plan->late = 0;
        find_nodes(s, plan);
        stay_in_node(s, &plan->route);
    }
}

static void find_nodes(const coterie_session_t *s, coterie_plan_t *plan)
{
    coterie_units_t *units = &plan->units;

    units->count = 0;
    for (uint32_t i = 0; i < plan->route.rank_count; i++) {
        uint16_t node = (uint16_t)(plan->route.rank[i] / s->node_ranks);

        if (units->count == 0 || units->unit[units->count - 1] != node)
            units->unit[units->count++] = node;
    }
    plan->carrier = units->count > 0 ? units->unit[0] : 0;
}

/* Other nodes' ranks are the business of their own representatives. */
static void stay_in_node(const coterie_session_t *s, coterie_route_t *route)
{
    uint16_t count = 0;

    for (uint32_t i = 0; i < route->rank_count; i++)
        if (route->rank[i] / s->node_ranks == s->across.me)
            route->rank[count++] = route->rank[i];
    route->rank_count = count;
}

/* What this node adds to each row: its ranks' sums and, where it is the
 * carrier, before them the residual. */
static coterie_status_t add_node_parts(coterie_session_t *s)
{
    size_t size = s->options.hidden * sizeof(float);
    coterie_status_t status = COTERIE_OK;

    for (uint32_t i = 0; i < s->held_count && status == COTERIE_OK; i++) {
        const coterie_held_t *held = &s->held[i];
        coterie_plan_t *plan = &s->plans[i];
        float *part = s->parts + coterie_row(s, i);
        bool carrier = plan->carrier == s->across.me;

        plan->part = carrier || held->part_count > 0 ? part : NULL;
        if (carrier)
            status = coterie_residual(s, 1, held->from, part);
        else
            memset(part, 0, size);
        coterie_add(s, held->part_count, held->part, part);
    }
    return status;
}
