#ifndef COTERIE_EARLY_H
#define COTERIE_EARLY_H
/** @file
 * The next layer's router, asked early: on what a token is before this layer's
 * experts and the next layer's attention have changed it. What that change
 * does to the router's scores is learned on the way, as a linear function of
 * what the router was shown, and another one for each expert of this layer that
 * the row chose, by normalised least mean squares (Widrow and Hoff, 1960;
 * Nagumo and Noda, 1967). The experts' are of a sketch of what the router was
 * shown: few sums, with random signs, of its elements. For engines: it never
 * changes results, only the order in which experts are read. One rank's, one
 * thread's. */
#include <coterie/status.h>

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct coterie_early coterie_early_t;

/** Start from COTERIE_EARLY_OPTIONS_INIT. Memory: a router's, in f32, for each
 * layer, and at most 128 MiB for what experts do. */
typedef struct coterie_early_options {
    size_t size;
    uint32_t layer_count; /**< MoE layers; this and the next are required */
    uint32_t expert_count;
    uint32_t hidden;
    uint32_t max_rows;
    uint64_t k; /**< experts that a row chooses; 0: nobody will say which */
} coterie_early_options_t;

#define COTERIE_EARLY_OPTIONS_INIT { .size = sizeof(coterie_early_options_t) }

/** Some rows at a layer, in the order of their sequences and positions. */
typedef struct coterie_early_rows {
    uint32_t layer, count;
    const int32_t *sequence, *position; /**< [count] */
    /** [count, k] what was chosen at the layer before, and with what weights;
     * -1: nothing. NULL: unknown. Learning does not ask again. */
    const int32_t *experts;
    const float *weights;
} coterie_early_rows_t;

/** @return ERR_INVALID if something required is 0; ERR_NO_MEMORY */
COTERIE_API coterie_status_t coterie_early_create(
    const coterie_early_options_t *options, coterie_early_t **early_p);

/** Corrects the scores that a layer's router gives early, and remembers them
 * and the rows until these come to the layer.
 *
 * @param rows    of the layer whose router was asked
 * @param normed  [count, hidden]: what it was shown
 * @param scores  [count, expert_count]: what it said, before anything chooses
 *                from that; corrected */
COTERIE_API void coterie_early_correct(coterie_early_t *early,
                                       const coterie_early_rows_t *rows,
                                       const float *normed, float *scores);

/** The rows have come: learns from the scores that the layer's router gives
 * now. Rows that were not asked about, or went elsewhere, do not matter.
 * @param scores  [count, expert_count] */
COTERIE_API void coterie_early_learn(coterie_early_t *early,
                                     const coterie_early_rows_t *rows,
                                     const float *scores);

/** Accepts NULL. */
COTERIE_API void coterie_early_destroy(coterie_early_t *early);

#ifdef __cplusplus
}
#endif
#endif
