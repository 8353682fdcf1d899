#ifndef COTERIE_TOOLS_DECODER_H
#define COTERIE_TOOLS_DECODER_H
/* A complete decoder on top of Coterie, one object a rank: embedding,
 * attention, router, norms, logits and sampling are its own; the experts and
 * all that travels between ranks are the session's. */
#include <coterie/coterie.h>

#include "tools/sampler.h"
#include "tools/weights.h"

typedef struct decoder decoder_t;

/* The same on every rank, but for the recorder and the arrays that a rank
 * fills. Pointers are borrowed until destroy. */
typedef struct decoder_options {
    const weights_t *weights;
    uint32_t sequences;
    const uint64_t *start;  /* [sequences + 1]: first position of each */
    const uint32_t *prompt; /* [sequences]: tokens of each prompt */
    uint32_t max_rows;
    bool share_kv; /* rows may move: other ranks need their K/V */
    bool predict;  /* guess the next layer's experts, for the recorder */
    bool learn;    /* but not in forward mode, to guess better on the way */
    bool steer;    /* and, in forward mode, for the session */
    bool ahead;    /* and, in other modes, for its tiers to read ahead */
    sampler_t sampler;
    coterie_trace_recorder_t *recorder; /* or NULL */
    int32_t *tokens; /* [start[sequences]]: prompts; samples are added */
    float *logits;   /* [start[sequences], vocab] of each position, or NULL */
    uint8_t *seen;   /* [start[sequences]]: 1 where logits were computed */
} decoder_options_t;

coterie_status_t decoder_create(const decoder_options_t *options,
                                decoder_t **decoder_p);

/* The decoder as a session sees it; belongs to the decoder. */
const coterie_engine_t *decoder_engine(const decoder_t *decoder);

/* One step over all prompts, each at its home: samples the first tokens.
 * Collective, as every step.
 * @param last  no step follows */
coterie_status_t decoder_prefill(decoder_t *decoder,
                                 coterie_session_t *session, uint32_t rank,
                                 uint32_t rank_count, bool last);

/* One step that gives each sequence another token, wherever it is now. */
coterie_status_t decoder_step(decoder_t *decoder, coterie_session_t *session,
                              bool last);

/* Accepts NULL. */
void decoder_destroy(decoder_t *decoder);

#endif
