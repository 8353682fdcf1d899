#ifndef COTERIE_OFFLOAD_SHARE_H
#define COTERIE_OFFLOAD_SHARE_H
/* Tiers of one process, used by others of its machine. The keeper has them:
 * states, policy, foresight and reader; guests have its memory mapped, and
 * make the calls of tiers.h over a socket, on which a thread of the keeper's
 * listens for each. So there is one of everything, and a guest that dies is a
 * socket that closes: what it had goes back. Names and memory are the
 * kernel's, which forgets them with their last user. */
#include "experts/source.h"
#include "offload/tiers.h"
#include "offload/timeline.h"

typedef struct coterie_keeper coterie_keeper_t;
typedef struct coterie_guest coterie_guest_t;

typedef enum coterie_call_kind {
    COTERIE_CALL_SERVE,
    COTERIE_CALL_SPEEDS,
    COTERIE_CALL_ROUTE,
    COTERIE_CALL_GUESS,
    COTERIE_CALL_WATCH,
    COTERIE_CALL_FEED,
    COTERIE_CALL_WANT,
    COTERIE_CALL_TAKE,
    COTERIE_CALL_RELEASE,
    COTERIE_CALL_ABANDON,
    COTERIE_CALL_COUNTS,
    COTERIE_CALL_TIMELINE,
    COTERIE_CALL_HOT,
    COTERIE_CALL_DESCRIBE,
    COTERIE_CALL_COUNT
} coterie_call_kind_t;

enum { COTERIE_SHARE_TEXT = 256 }; /* bytes of DESCRIBE's answer */

/* What a guest says. */
typedef struct coterie_call {
    uint32_t kind;
    uint32_t values[3]; /* the call's small arguments */
    uint64_t size;      /* bytes of the large ones, which follow */
} coterie_call_t;

/* What it hears, if the call has an answer: SERVE, TAKE, and those that ask. */
typedef struct coterie_answer {
    int32_t status;     /* a failure's text follows, with its final zero */
    uint32_t values[3]; /* the call's small results */
    uint64_t size;      /* bytes of the large ones, which follow */
} coterie_answer_t;

/* What the keeper says first; descriptors of its memory come with it. */
typedef struct coterie_welcome {
    uint64_t identity; /* as coterie_share_identity */
    uint32_t fast_count, slot_count;
    uint64_t fast_size, host_size; /* bytes; 0: there is no such memory */
} coterie_welcome_t;

/* A part of a message. */
typedef struct coterie_share_part {
    const void *data;
    size_t size;
} coterie_share_part_t;

/* Only builds of the same version with the same store understand each other. */
uint64_t coterie_share_identity(const coterie_source_t *source,
                                uint32_t layers, uint32_t experts);

/* All parts, of which there are at most 6; false if nobody listens. */
bool coterie_share_send(int socket, const coterie_share_part_t *parts,
                        size_t count);
/* Exactly size bytes; false if the other one is gone. */
bool coterie_share_receive(int socket, void *data, size_t size);

/* The same with descriptors of one or two files. */
bool coterie_share_send_files(int socket, const void *data, size_t size,
                              const int *files, size_t count);
/* @param files  [2]: those that came; the caller's, also on failure; others -1
 */
bool coterie_share_receive_files(int socket, void *data, size_t size,
                                 int *files);

/* share_keeper.c. @param name  [COTERIE_TIERS_NAME]: to join by */
coterie_status_t coterie_keeper_create(coterie_tiers_t *tiers, char *name,
                                       coterie_keeper_t **keeper_p);
uint32_t coterie_keeper_guests(coterie_keeper_t *keeper);
/* Guests hear ERR_PEER from now on. Accepts NULL. */
void coterie_keeper_destroy(coterie_keeper_t *keeper);

/* share_guest.c. Fills what tiers_state.h says of a guest's tiers. */
coterie_status_t coterie_guest_create(const char *name,
                                      coterie_tiers_t *tiers);
/* Accepts NULL. */
void coterie_guest_destroy(coterie_guest_t *guest);

/* As the calls of tiers.h. A keeper that is gone is told by those that return
 * a status. */
coterie_status_t coterie_guest_serve(coterie_guest_t *guest,
                                     coterie_items_t items);
void coterie_guest_speeds(coterie_guest_t *guest,
                          const coterie_speeds_t *speeds);
void coterie_guest_route(coterie_guest_t *guest, coterie_items_t chosen,
                         coterie_items_t refuted);
/* GUESS, WANT or ABANDON */
void coterie_guest_items(coterie_guest_t *guest, coterie_call_kind_t kind,
                         coterie_items_t items);
/* WATCH, or FEED with tokens in the place of experts. */
bool coterie_guest_sight(coterie_guest_t *guest, coterie_call_kind_t kind,
                         const coterie_sight_t *rows);
/* @param slot_p  where the expert is */
coterie_status_t coterie_guest_take(coterie_guest_t *guest,
                                    coterie_items_t items, uint32_t *at_p,
                                    uint32_t *slot_p);
void coterie_guest_release(coterie_guest_t *guest, uint32_t item,
                           uint32_t rows);
/* COUNTS, TIMELINE, HOT or DESCRIBE: size bytes; zeros if nobody answers.
 * @return the answer's first small result */
uint32_t coterie_guest_ask(coterie_guest_t *guest, coterie_call_kind_t kind,
                           void *data, size_t size);

#endif
