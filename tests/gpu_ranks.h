#ifndef TESTS_GPU_RANKS_H
#define TESTS_GPU_RANKS_H
/* Ranks of one process on a device, with a placement, experts and rows drawn at
 * random, and what connects them. */
#include "runtime/dispatcher.h"
#include "tests/gpu_data.h"

enum { RANKS_MAX = 8, LAYERS = 2, ROWS_MAX = 160, FFN = 16 };

/* What a trial draws. */
typedef struct plan {
    uint32_t ranks, nodes, experts, spare, k, hidden, max_rows, capacity;
    uint32_t arrivals, predicted_k;
    uint32_t rows; /* of a rank at first, at most */
    uint32_t mode, wire, element;
    uint32_t deadline_ms;
    bool skewed;  /* all choose experts of one rank */
    bool distant; /* no window is in reach */
    bool apart;   /* the host does not wait for ranks to meet */
} plan_t;

/* One rank's rows on the host. */
typedef struct rows {
    uint32_t count;
    uint64_t *key;
    float *hidden, *normed, *weights;
    int32_t *ids, *predicted;
    uint32_t *seat, *holders;
} rows_t;

/* Reaches peers as the plan says, without a network: base is what the
 * dispatcher has, local does the work. */
typedef struct test_fabric {
    coterie_fabric_t base;
    coterie_fabric_t *local;
    const plan_t *plan;
} test_fabric_t;

typedef struct ranks {
    plan_t plan;
    world_t memory;
    coterie_placement_t *placement;
    test_fabric_t fabric;
    coterie_dispatcher_t *dispatcher;
    float *norm; /* [LAYERS, hidden] */
    coterie_ffn_shape_t shape;
    coterie_expert_weights_t *experts; /* [experts], on the host */
    unsigned char *panels;             /* theirs */
    coterie_expert_weights_t *there[RANKS_MAX]; /* [LAYERS, slots] */
    uint16_t *inner;
    rows_t rows[RANKS_MAX];
    coterie_device_rows_t in[RANKS_MAX], out[RANKS_MAX];
    uint8_t active[RANKS_MAX];
    /* As they should be. */
    uint64_t copies_dispatch, copies_return, copies_forward, copies_fixup;
    uint64_t dropped;
} ranks_t;

ranks_t *ranks_open(coterie_device_t *device, const plan_t *plan);
void ranks_close(ranks_t *r);

/* The first rows; some ranks have none. */
void rows_begin(ranks_t *r);
/* To the ranks' in. */
void rows_upload(ranks_t *r);
/* Queues a layer of the first ranks, with experts of the caller's own, as an
 * engine may have them. */
coterie_status_t layer_queue(ranks_t *r, uint32_t layer, uint32_t ranks);
/* A rank's out. */
rows_t rows_download(ranks_t *r, uint32_t rank);

/* Adds what must become of a row to `to`.
 * @return choices that nobody can serve */
uint32_t row_expect(const ranks_t *r, uint32_t layer, const rows_t *from,
                    uint32_t i, rows_t *to);

rows_t rows_new(const plan_t *p);
void rows_free(rows_t *rows);
/* As a wire or an element of this type has it. */
float rounded(float value, uint32_t type);

#endif
