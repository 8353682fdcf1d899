#ifndef COTERIE_BASE_CONTAINER_H
#define COTERIE_BASE_CONTAINER_H
/* What a container (a control group, of either version) allows this process.
 * The kernel enforces it late, by killing or by stopping threads; so who plans
 * asks beforehand. */
#include <stdint.h>

#include <coterie/api.h>

typedef struct coterie_container {
    uint64_t memory_limit; /* bytes; UINT64_MAX: none */
    uint64_t memory_used;  /* of the group with the least left of its limit */
    double cpu_limit;      /* cores' worth of time; 0: none */
} coterie_container_t;

/* The strictest of this process's group and those around it.
 * @param root  what stands for "/": "" but in tests */
void coterie_container_read(const char *root, coterie_container_t *container);

/* Cores that threads can keep busy: those that this process may run on, or
 * fewer if its container's limit is lower. At least 1. */
COTERIE_API uint32_t coterie_container_cores(void);

#endif
