#ifndef COTERIE_OFFLOAD_PREDICTOR_H
#define COTERIE_OFFLOAD_PREDICTOR_H
/* Which experts a sequence chooses some layers from now: parts that each give
 * every expert's chance, and a blend of them. All learn from what comes true.
 * A wrong guess costs time, never a result. One thread at a time; nothing
 * allocates but create. */
#include <coterie/offload.h>

#include "offload/history.h"

enum { COTERIE_SOURCES_MAX = 8 };

/* What the engine can say about a set before it is known. */
typedef struct coterie_clue {
    /* The router's own guess, the likeliest first; may be NULL. */
    const int16_t *hint;
    uint32_t hint_count;
    int32_t token; /* that the sequence is fed then; -1: unknown */
} coterie_clue_t;

#define COTERIE_CLUE_NONE { NULL, 0, -1 }

/* What is known about a set before it is. */
typedef struct coterie_glimpse {
    uint32_t layer;
    /* Earlier sets of the sequence, nearest first: [k] ids, or NULL. */
    const int16_t *source[COTERIE_SOURCES_MAX];
    coterie_clue_t clue;
} coterie_glimpse_t;

typedef struct coterie_predictor_shape {
    uint32_t layer_count, expert_count, k;
    /* Layers from the latest set known to the one predicted; as many as there
     * are layers: the same layer of the next token. */
    uint32_t distance;
    uint32_t source_count; /* of a glimpse; set by the predictor */
} coterie_predictor_shape_t;

typedef struct coterie_part coterie_part_t;

/* A part is one file that fills this table, and one line in predictor.c. No
 * slot is NULL. Arrays have one float for each expert. */
typedef struct coterie_part_ops {
    coterie_status_t (*create)(const coterie_predictor_shape_t *shape,
                               coterie_part_t **part_p);
    /* Natural logarithms of odds. @return 0 if it has nothing to say */
    int (*odds)(const coterie_part_t *part, const coterie_glimpse_t *glimpse,
                float *odds);
    /* What came true: 1 for each expert chosen, else 0. `chance` is what the
     * part gave for this glimpse, just now. */
    void (*learn)(coterie_part_t *part, const coterie_glimpse_t *glimpse,
                  const float *chance, const float *chosen);
    void (*destroy)(coterie_part_t *part);
} coterie_part_ops_t;

struct coterie_part {
    coterie_predictor_shape_t shape;
};

extern const coterie_part_ops_t coterie_part_popularity,
    coterie_part_affinity, coterie_part_regression, coterie_part_router,
    coterie_part_token;

typedef struct coterie_predictor coterie_predictor_t;

/* @return ERR_INVALID for a distance of 0 or beyond one token */
coterie_status_t coterie_predictor_create(
    const coterie_predictor_shape_t *shape,
    coterie_predictor_t **predictor_p);

/* How many sets a history must keep. */
uint32_t coterie_predictor_reach(const coterie_predictor_t *predictor);

/* The chances of the set `distance` layers after the latest in the history.
 * @param clue  about that set; its hint is kept until the next call */
void coterie_predictor_predict(coterie_predictor_t *predictor,
                               const coterie_history_t *history,
                               const coterie_clue_t *clue);

/* The chances of the latest set in the history, from what was known `distance`
 * layers before. */
void coterie_predictor_review(coterie_predictor_t *predictor,
                              const coterie_history_t *history,
                              const coterie_clue_t *clue);

/* Learns what the set of the latest call turned out to be: [k] ids, -1 = none.
 * The usual order for each set: push, review, learn, predict. */
void coterie_predictor_learn(coterie_predictor_t *predictor,
                             const int16_t *chosen);

/* [expert_count]: the chances that a part, or the blend, gave in the latest
 * call; NULL if it had nothing to say. */
const float *coterie_predictor_chance(const coterie_predictor_t *predictor,
                                      coterie_prediction_t part);

/* Accepts NULL. */
void coterie_predictor_destroy(coterie_predictor_t *predictor);

#endif
