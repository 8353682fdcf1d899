#ifndef COTERIE_OFFLOAD_TIERS_H
#define COTERIE_OFFLOAD_TIERS_H
/* What a bank asks of tiers. An item is one expert, layer * experts + expert.
 * For one layer a bank
 *
 *   routes    says which of its items the router chose, and which not
 *   guesses   may say, at any time, what it is likely to want soon
 *   watches   may say what the rows chose, for others to be foreseen
 *   wants     some items, which then stay until taken
 *   takes     one that is there, in whatever order they come
 *   releases  it, when computed
 *
 * and may want others only when it has taken or abandoned those: so whoever
 * waits needs nothing but slots that others will release, and a budget of one
 * expert serves any number of banks. Any thread. */
#include <coterie/tiers.h>

#include "offload/foresight.h"
#include "offload/reader_io.h"

enum { COTERIE_ITEM_NONE = 0xffffffff };

/* What one expert takes, in nanoseconds: computing a row with it from either
 * tier's memory, what every row takes at least when there are many, and copying
 * it. 0: unknown; then nothing moves between tiers. */
typedef struct coterie_speeds {
    double fast_ns, host_ns, row_ns, copy_ns;
} coterie_speeds_t;

typedef struct coterie_items {
    uint32_t *items; /* the bank's; take strikes out with ITEM_NONE */
    uint32_t count;
} coterie_items_t;

/* As coterie_tiers_create, but reads by `io`; NULL: the best way. */
coterie_status_t coterie_tiers_create_with(
    const coterie_model_t *model, const coterie_tiers_options_t *options,
    const coterie_io_ops_t *io, coterie_tiers_t **tiers_p);

void coterie_tiers_shape(const coterie_tiers_t *tiers, uint32_t *layers_p,
                         uint32_t *experts_p,
                         coterie_expert_format_t *format);

/* The tiers' memory, all that records are given in: NULL where there is less.
 * For devices that copy from it. */
enum { COTERIE_TIERS_MEMORIES = 2 };
void *coterie_tiers_memory(const coterie_tiers_t *tiers, uint32_t which,
                           size_t *size_p);

bool coterie_tiers_have_host(const coterie_tiers_t *tiers);
void coterie_tiers_speeds(coterie_tiers_t *tiers,
                          const coterie_speeds_t *speeds);

/* Makes items a bank's business: others are not guessed for. NONE is skipped.
 * Only a guest's can fail. */
coterie_status_t coterie_tiers_serve(coterie_tiers_t *tiers,
                                     coterie_items_t items);
/* Takes that back. */
void coterie_tiers_leave(coterie_tiers_t *tiers, coterie_items_t items);

/* Reads of guesses that the router refuted are dropped, unless another bank
 * serves the item, too. */
void coterie_tiers_route(coterie_tiers_t *tiers, coterie_items_t chosen,
                         coterie_items_t refuted);

void coterie_tiers_guess(coterie_tiers_t *tiers, coterie_items_t items);

/* What all rows of a bank's session chose, wherever their experts are: they
 * are learned from, and what they choose next is read ahead. Returns at once.
 * @return false if too much was told at a time, and this was not heard */
bool coterie_tiers_watch(coterie_tiers_t *tiers, const coterie_sight_t *rows);

/* A step begins, in which sequences are fed these tokens. Of rows, the turn,
 * the count, sequences and positions. */
void coterie_tiers_feed(coterie_tiers_t *tiers, const coterie_sight_t *rows,
                        const int32_t *token);

void coterie_tiers_want(coterie_tiers_t *tiers, coterie_items_t items);

/* Waits for one of the wanted items that are left.
 * @param at_p  which: its place in items
 * @return the failure of a read, with the expert's name; then abandon */
coterie_status_t coterie_tiers_take(coterie_tiers_t *tiers,
                                    coterie_items_t items, uint32_t *at_p,
                                    const void **record_p);

/* Whether take would not wait. A guest cannot know: false. */
bool coterie_tiers_ready(coterie_tiers_t *tiers, coterie_items_t items);

/* Whether another one is there and can be taken along, as nobody waits for a
 * slot. A guest cannot know: false. */
bool coterie_tiers_more(coterie_tiers_t *tiers, coterie_items_t items);

/* @param rows  that were computed with it */
void coterie_tiers_release(coterie_tiers_t *tiers, uint32_t item,
                           uint32_t rows);

/* What is foreseen: the chance that each is needed when its layer comes next.
 * Of another process's tiers nothing is known: 0. */
void coterie_tiers_chances(coterie_tiers_t *tiers, coterie_items_t items,
                           float *chance);

/* Takes what nobody asked for, if it is there, so that it can be copied. Banks
 * have no more than half of all slots so: whoever waits for a slot still gets
 * one, however long they keep theirs.
 * @return false if it is not there, or would be too many */
bool coterie_tiers_borrow(coterie_tiers_t *tiers, uint32_t item,
                          const void **record_p);
void coterie_tiers_give_back(coterie_tiers_t *tiers, uint32_t item);

/* Gives up the wanted items that are left. */
void coterie_tiers_abandon(coterie_tiers_t *tiers, coterie_items_t items);

#endif
