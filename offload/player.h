#ifndef COTERIE_OFFLOAD_PLAYER_H
#define COTERIE_OFFLOAD_PLAYER_H
/* Plays a trace as an engine would: some sequences at a time, a token of each
 * a step, layer by layer. A sequence that ends makes room for the next. */
#include <coterie/trace.h>

#include "offload/history.h"

/* What is needed at one layer of one step. */
typedef struct coterie_need {
    const uint32_t *items; /* layer * expert_count + expert, each once */
    uint32_t count;
    uint64_t first_token; /* of those in the step, in the trace's order */
    const coterie_history_t *const *histories; /* these sets pushed */
    uint32_t history_count;
    uint64_t tokens_done; /* whole ones, of all sequences */
} coterie_need_t;

typedef struct coterie_player coterie_player_t;

/* @param reach  of the histories */
coterie_status_t coterie_player_create(const coterie_trace_view_t *view,
                                       uint32_t streams, uint32_t reach,
                                       coterie_player_t **player_p);

/* @return 0 after the last; need's arrays live until the next call */
int coterie_player_next(coterie_player_t *player, coterie_need_t *need);

/* Accepts NULL. */
void coterie_player_destroy(coterie_player_t *player);

#endif
