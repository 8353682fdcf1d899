#ifndef COTERIE_TOOLS_DOCTOR_H
#define COTERIE_TOOLS_DOCTOR_H
/* What `coterie doctor` measures itself; 1e9 bytes a second. */
#include <coterie/coterie.h>

typedef struct doctor_rates {
    double memory_one, memory_all; /* reading memory: a thread, all cores */
    double kernels_one;            /* weights through a kernel, a thread */
} doctor_rates_t;

coterie_status_t doctor_measure(uint32_t cores, doctor_rates_t *rates);

#endif
