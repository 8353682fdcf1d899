#ifndef COTERIE_TOOLS_LIFT_H
#define COTERIE_TOOLS_LIFT_H
#include "tools/rank.h"

/* Has the ranks of this process dispatch rows on the device that they share, if
 * they do; else says why rows go through the host. */
coterie_status_t lift_open(job_t *job);
/* Once the ranks have ended. */
void lift_close(job_t *job);

/* Has a rank's bank, which is on its device, dispatched to there: as the job
 * does, or by NCCL if every rank has a GPU of its own; else says why not.
 * Collective. */
coterie_status_t lift_join(rank_t *r);
void lift_leave(rank_t *r);

#endif
