#ifndef COTERIE_RUNTIME_RENDEZVOUS_H
#define COTERIE_RUNTIME_RENDEZVOUS_H
/* How processes that a launcher started find each other without MPI: who one
 * is, the launcher says in the environment; what one has to tell the others
 * goes through files beside one that all of them can name. */
#include <coterie/status.h>

/* Who this process is. */
typedef struct coterie_launch {
    uint32_t rank, rank_count;
    uint32_t local_rank; /* among those of this machine */
} coterie_launch_t;

/* Asks, in this order, torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK),
 * which may be set by hand, too, srun's, Open MPI's and Hydra's.
 * @return ERR_NOT_FOUND if no launcher speaks; ERR_INVALID if one does not make
 *         sense, naming the variable */
coterie_status_t coterie_launch_read(coterie_launch_t *launch);

typedef struct coterie_rendezvous {
    const char *file; /* NULL: what COTERIE_RENDEZVOUS names. The files are
                         this name's, with the ranks behind it; their directory
                         must exist and be the same one for all ranks */
    uint32_t rank, rank_count;
    uint32_t deadline_ms;
    size_t size; /* bytes of each rank's */
} coterie_rendezvous_t;

/* Collective: every rank gets every rank's bytes, in all[rank_count * size].
 * What an earlier run left behind is not taken for an answer, and nothing is
 * left behind; the same file may be used again at once.
 * @return ERR_TIMEOUT, naming the first rank that did not come; ERR_EXISTS if
 *         a file is in the way that is not ours; ERR_NOT_FOUND without a
 *         file's name */
coterie_status_t coterie_rendezvous(const coterie_rendezvous_t *how,
                                    const void *mine, void *all);

#endif
