#ifndef COTERIE_OFFLOAD_HISTORY_H
#define COTERIE_OFFLOAD_HISTORY_H
/* What one sequence has chosen of late: its sets of experts, layer after layer
 * and token after token, as one stream. One thread at a time. */
#include <coterie/status.h>

typedef struct coterie_history coterie_history_t;

/* @param reach  how many of the latest sets are kept */
coterie_status_t coterie_history_create(uint32_t k, uint32_t reach,
                                        coterie_history_t **history_p);

/* Appends the set of the stream's next layer: [k] ids, -1 = none. */
void coterie_history_push(coterie_history_t *history, const int16_t *ids);

/* Forgets everything: another sequence begins, at layer 0. */
void coterie_history_restart(coterie_history_t *history);

/* How many sets were pushed since the start. */
uint64_t coterie_history_count(const coterie_history_t *history);

/* The set at that place in the stream, or NULL: from before the start, out of
 * reach, or yet to come. */
const int16_t *coterie_history_at(const coterie_history_t *history,
                                  int64_t place);

/* Accepts NULL. */
void coterie_history_destroy(coterie_history_t *history);

#endif
