#ifndef COTERIE_TOOLS_PLACE_H
#define COTERIE_TOOLS_PLACE_H
/* `coterie place`: what it works on, and what it prints of it. */
#include <coterie/place.h>

#include "tools/cluster.h"

typedef struct place_job {
    cluster_t cluster;
    uint64_t expert_bytes;
    coterie_trace_t *trace; /* this, or */
    coterie_loads_t *loads; /* these */
    coterie_placement_t *placement;
    coterie_place_report_t report;
    coterie_tiering_t *tiering; /* NULL: none was asked for */
    coterie_tiering_report_t tiers;
} place_job_t;

coterie_status_t place_json(const place_job_t *job);
void place_text(const place_job_t *job);

#endif
