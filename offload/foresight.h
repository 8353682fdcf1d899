#ifndef COTERIE_OFFLOAD_FORESIGHT_H
#define COTERIE_OFFLOAD_FORESIGHT_H
/* What the sequences that are being served will need: keeps what each chose of
 * late, and has predictors learn from it. It sees some layers ahead, for
 * reading in time, and a whole token, for what may leave memory. Ranks that
 * serve a step together tell it in turn; it does not matter if two tell it of
 * one row. One thread at a time; nothing allocates but create. */
#include "offload/forecast.h"

/* What rows chose at a layer. */
typedef struct coterie_sight {
    uint64_t turn; /* the step's number, the same on all ranks */
    uint32_t layer, count;
    uint32_t k, hint_count;
    const int32_t *sequence, *position; /* [count], by both ascending */
    const int32_t *experts;             /* [count, k]; -1 = none */
    /* [count, hint_count]: the next layer's router's guess, or NULL. */
    const int32_t *hints;
} coterie_sight_t;

typedef struct coterie_foresight coterie_foresight_t;

/* @param ahead  how many layers to look, 1 to layer_count */
coterie_status_t coterie_foresight_create(uint32_t layer_count,
                                          uint32_t expert_count, uint32_t k,
                                          uint32_t ahead,
                                          coterie_foresight_t **foresight_p);

/* A step begins: sequences are fed these tokens, which says more about its
 * first layers than was known.
 * @param rows   the turn, the count, sequences and positions
 * @param token  [count] */
void coterie_foresight_feed(coterie_foresight_t *foresight,
                            const coterie_sight_t *rows, const int32_t *token);

/* Learns, and looks ahead of this layer. Where several positions of a sequence
 * are given, only the last counts. */
void coterie_foresight_note(coterie_foresight_t *foresight,
                            const coterie_sight_t *rows);

/* The layer that was told of last, and how many are seen ahead of it. */
uint32_t coterie_foresight_layer(const coterie_foresight_t *foresight);
uint32_t coterie_foresight_ahead(const coterie_foresight_t *foresight);

/* [expert_count]: the chances that none of the rows told of since the latest
 * layer's beginning needs it `distance` layers later. */
const float *coterie_foresight_absent(const coterie_foresight_t *foresight,
                                      uint32_t distance);

/* What it expects a whole token ahead. */
coterie_forecast_t *coterie_foresight_forecast(
    const coterie_foresight_t *foresight);

/* Accepts NULL. */
void coterie_foresight_destroy(coterie_foresight_t *foresight);

#endif
