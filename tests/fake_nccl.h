#ifndef TESTS_FAKE_NCCL_H
#define TESTS_FAKE_NCCL_H
/* NCCL for ranks that are threads with host devices. As the real one it never
 * blocks: a call is in progress until its partners have called, too; and what
 * never comes stays queued, so that a stream is never done. */
#include "runtime/nccl_calls.h"

/* What there is, and what has happened; set before ranks begin. */
typedef struct fake_nccl {
    int version;
    int team;        /* ranks that reach each other's memory; 0: none */
    int patience_ms; /* until what did not come is left queued */
    uint32_t sends, even, shrinks, revokes, aborts; /* calls */
    int communicators, buffers;                     /* open */
} fake_nccl_t;

extern fake_nccl_t fake_nccl;
extern _Thread_local unsigned char fake_nccl_gpu; /* this rank's */

/* Everything of version 2.28; take away what shall be missing. */
coterie_nccl_calls_t fake_nccl_calls(void);

#endif
