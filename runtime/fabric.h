#ifndef COTERIE_RUNTIME_FABRIC_H
#define COTERIE_RUNTIME_FABRIC_H
/* What dispatch on devices asks of that which connects them.
 *
 * Every rank has a window: memory of its device, of one size and layout on all
 * ranks. A sender's kernel writes a message straight into the receiver's
 * window, where it has an address there, and raises a flag in it; the
 * receiver's kernel waits for the flag. Where there is no such address, the
 * kernel writes to an outbox, and `swap` moves whole outboxes to windows: its
 * order in the stream then stands for the flags. */
#include <coterie/dispatch.h>

#include "kernels/device.h"

/* Messages of one size from every driven rank to every rank, self left out:
 * `size` bytes at out[i] + peer * size go to in[rank] + i's rank * size, in
 * the window of `peer`. */
typedef struct coterie_fabric_swap {
    uint32_t first, count; /* of ranks that this end drives */
    size_t size;           /* a multiple of 16 */
    char *const *out;      /* [count]: outboxes, on the device */
    char *const *in;       /* [count]: inboxes in own windows */
    const uint8_t *active; /* [rank_count], on the host: 0 = takes no part */
} coterie_fabric_swap_t;

/* A backend is one file that fills this table and opens itself. No slot is
 * NULL. The base struct is its handle's first member. */
typedef struct coterie_fabric_ops {
    const char *name; /* "local", "nccl", "nccl-device" */
    /* Control path, collective: a window of `size` bytes, zeroed, aligned to
     * 256, for each driven rank; once for a fabric. window[i] is driven rank
     * i's; reach[i * rank_count + peer] is where its kernels write to the
     * peer's, its own included, or NULL. Returns when all are zeroed. */
    coterie_status_t (*open_windows)(coterie_fabric_t *f, size_t size,
                                     char **window, char **reach);
    /* Step path, only where some reach is NULL: queues it on the device's
     * compute stream. Never waits or allocates, and can be captured. */
    coterie_status_t (*swap)(coterie_fabric_t *f,
                             const coterie_fabric_swap_t *swap);
    /* Called between sending and waiting kernels of driven ranks
     * first, ..., first + count - 1: returns when the sending kernels of all
     * other ranks that share their device are queued; at once if none does.
     * @return ERR_TIMEOUT, ERR_PEER after an abort */
    coterie_status_t (*meet)(coterie_fabric_t *f, uint32_t first,
                             uint32_t count, uint32_t deadline_ms);
    /* Never waits: whether the connection itself has failed, and how. */
    coterie_status_t (*check)(coterie_fabric_t *f);
    /* Control path: waits until what is queued on the compute stream is done.
     * @return ERR_TIMEOUT after deadline_ms: what the fabric itself had queued
     *         was then given up; ERR_PEER */
    coterie_status_t (*drain)(coterie_fabric_t *f, uint32_t deadline_ms);
    /* Control path, by those that remain: goes on without the others (0).
     * reach of the others stays as it is, until the fabric is closed. */
    coterie_status_t (*exclude)(coterie_fabric_t *f, const uint8_t *active);
    void (*abort)(coterie_fabric_t *f);
    void (*close)(coterie_fabric_t *f);
} coterie_fabric_ops_t;

struct coterie_fabric {
    const coterie_fabric_ops_t *ops;
    coterie_device_t *device; /* of the driven ranks; borrowed */
    uint32_t rank_count;
    uint32_t first, count; /* ranks that this end drives */
};

#endif
