#ifndef COTERIE_PLACEMENT_REPLACING_H
#define COTERIE_PLACEMENT_REPLACING_H
/* One call of coterie_replace: replace.c decides, replacing.c makes what there
 * is to choose from. */
#include <coterie/replace.h>

#include "placement/solve/search.h"

/* A placement that could be, by slots. */
typedef struct coterie_candidate {
    int16_t *slots; /* [layer, slot] */
    uint64_t moves;
} coterie_candidate_t;

typedef struct coterie_replacing {
    const coterie_placement_t *old;
    coterie_replace_options_t options;
    coterie_trace_t *train, *judged, *held; /* ours; judged is of train */
    coterie_trace_view_t view;              /* of train */
    coterie_search_t search;
    coterie_placement_t *free_choice; /* as if moving were free; or NULL */
    coterie_candidate_t *candidates;
    size_t count, room;
    uint64_t moves_all;   /* to the free choice */
    const int16_t *best;  /* of the candidates, or the old placement's */
    double copies_before, copies; /* of judged */
} coterie_replacing_t;

/* Fills candidates; which they are does not depend on the budget. */
coterie_status_t coterie_replacing_candidates(coterie_replacing_t *r);

#endif
