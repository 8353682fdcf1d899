#ifndef COTERIE_BENCH_PEER_H
#define COTERIE_BENCH_PEER_H
/* Another implementation of a layer's experts, measured beside ours. All read
 * the same bytes as weights: what they mean does not matter for time. */
#include <stddef.h>
#include <stdint.h>

/* What one number of tokens is measured with. Each token chooses k experts. */
typedef struct peer_work {
    const char *dtype; /* as kernels --dtype has it */
    uint32_t hidden, ffn, experts, k, tokens, threads;
    char *weights; /* small numbers in any format */
    size_t weights_size;
    const float *x;      /* [tokens, hidden] */
    const int32_t *ids;  /* [tokens, k]; change from run to run */
    const float *scores; /* [tokens, k] */
} peer_work_t;

typedef struct peer {
    const char *name;
    /* Returns NULL if the peer has no such weights or too little memory. */
    void *(*open)(const peer_work_t *work);
    /* Gets ready for the present ids; not timed. */
    void (*prepare)(void *handle);
    /* Returns floating-point operations of the three products. */
    double (*run)(void *handle);
    void (*close)(void *handle);
} peer_t;

/* sgemm on gathered rows, the products alone. Without the library, NULL. */
const peer_t *peer_openblas(void);

/* What a module given by --peer exports. */
const peer_t *coterie_bench_peer(void);

#endif
