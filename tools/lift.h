#ifndef COTERIE_TOOLS_LIFT_H
#define COTERIE_TOOLS_LIFT_H
#include "tools/job.h"

/* Has the ranks of this process dispatch rows on the device that they share, if
 * they do; else says why rows go through the host. */
coterie_status_t lift_open(job_t *job);
/* Once the ranks have ended. */
void lift_close(job_t *job);

#endif
