/* The smallest serving engine: a toy model, with arithmetic for attention and
 * a formula for a router, on two ranks. Prints what each sequence becomes. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include <coterie/coterie.h>

enum { RANKS = 2, LAYERS = 4, EXPERTS = 8, K = 2, HIDDEN = 16 };
enum { SEQUENCES = 3, TOKENS = 24 };

/* Room for all sequences: all of them may meet on one rank. */
typedef struct room {
    int32_t sequence[SEQUENCES], position[SEQUENCES], token[SEQUENCES];
    float hidden[SEQUENCES * HIDDEN];
} room_t;

static const coterie_placement_t *placement;
static char text[SEQUENCES][TOKENS + 1]; /* ranks write different places */

static void check(coterie_transport_t *transport, coterie_status_t status)
{
    if (status == COTERIE_OK)
        return;
    fprintf(stderr, "engine: %s\n", coterie_last_error());
    coterie_transport_abort(transport); /* or the other rank would wait */
    exit(1);
}

static coterie_status_t norm(void *engine, uint32_t layer, uint32_t count,
                             const float *hidden, float *normed)
{
    (void)engine, (void)layer;
    for (uint32_t i = 0; i < count * HIDDEN; i++)
        normed[i] = tanhf(hidden[i]);
    return COTERIE_OK;
}

/* This rank's slots, which hold its share of the experts in order. With a real
 * model, a coterie_bank_t does this. */
static coterie_status_t experts(void *engine, uint32_t layer,
                                const coterie_expert_rows_t *rows,
                                const float *normed, float *sums)
{
    uint32_t first = coterie_transport_rank(engine) * EXPERTS / RANKS;

    for (uint32_t slot = 0; slot < rows->expert_count; slot++)
        for (uint32_t i = rows->first[slot]; i < rows->first[slot + 1]; i++)
            for (uint32_t j = 0; j < HIDDEN; j++) {
                uint32_t at = rows->row[i] * HIDDEN + j;
                float turn = (float)((first + slot) * (layer + j));
                sums[at] += rows->weight[i] * sinf(turn + normed[at]);
            }
    return COTERIE_OK;
}

/* Rows that are here: embedding; by layer, attention (with coterie_kv_put) and
 * router, then the experts; sampling. Other rows may come back than went. */
static void step(coterie_transport_t *transport, coterie_session_t *session,
                 coterie_phase_t phase, coterie_rows_t rows[2])
{
    float normed[SEQUENCES * HIDDEN], weights[SEQUENCES * K];
    int32_t ids[SEQUENCES * K];
    coterie_rows_t *here = &rows[0];

    check(transport, coterie_step_begin(session, phase, NULL, here));
    for (uint32_t i = 0; i < here->count * HIDDEN; i++)
        here->hidden[i] =
            cosf((float)(here->token[i / HIDDEN] * (int)(i % HIDDEN + 1)));
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        coterie_rows_t *next = &rows[1 - layer % 2];

        norm(NULL, layer, here->count, here->hidden, normed);
        for (uint32_t i = 0; i < here->count * K; i++) {
            ids[i] = (here->sequence[i / K] * 3 + here->position[i / K] * 5 +
                      (int)(layer + i % K * 3)) % EXPERTS;
            weights[i] = 1.0f / K;
        }
        here->normed = normed;
        here->topk_ids = ids;
        here->topk_weights = weights;
        check(transport, coterie_exchange(session, layer, here, next));
        here = next;
    }
    for (uint32_t i = 0; i < here->count; i++) { /* the largest element */
        const float *hidden = here->hidden + i * HIDDEN;

        here->token[i] = 0;
        for (int32_t j = 1; j < HIDDEN; j++)
            if (hidden[j] > hidden[here->token[i]])
                here->token[i] = j;
        text[here->sequence[i]][here->position[i]++] =
            (char)('a' + here->token[i]);
    }
    check(transport, coterie_step_end(session, here->count, here->sequence,
                                      here->position, here->token));
}

static void *serve(void *transport)
{
    coterie_engine_t engine = {.size = sizeof(engine),
                               .engine = transport,
                               .norm = norm,
                               .experts = experts};
    coterie_session_options_t options = {
        .size = sizeof(options), .transport = transport,
        .placement = placement, .engine = &engine, .hidden = HIDDEN, .k = K,
        .max_rows = SEQUENCES, .mode = COTERIE_MODE_OWNER};
    room_t room[2];
    coterie_rows_t rows[2];
    coterie_session_t *session;

    for (int i = 0; i < 2; i++)
        rows[i] = (coterie_rows_t){
            .size = sizeof(rows[i]), .capacity = SEQUENCES,
            .sequence = room[i].sequence, .position = room[i].position,
            .token = room[i].token, .hidden = room[i].hidden};
    check(transport, coterie_session_create(&options, &session));
    /* Prompts of one token, each at its home rank; then the runtime says. */
    for (uint32_t s = coterie_transport_rank(transport); s < SEQUENCES;
         s += RANKS) {
        rows[0].sequence[rows[0].count] = (int32_t)s;
        rows[0].position[rows[0].count] = 0;
        rows[0].token[rows[0].count++] = (int32_t)s + 1;
    }
    step(transport, session, COTERIE_PHASE_PREFILL, rows);
    for (int i = 1; i < TOKENS; i++)
        step(transport, session, COTERIE_PHASE_DECODE, rows);
    coterie_session_destroy(session);
    return NULL;
}

int main(void)
{
    coterie_placement_options_t in_order = {.size = sizeof(in_order),
                                            .layer_count = LAYERS,
                                            .expert_count = EXPERTS,
                                            .rank_count = RANKS};
    coterie_transport_t *transports[RANKS];
    coterie_placement_t *made;
    pthread_t threads[RANKS];

    if (coterie_placement_create(&in_order, &made) != COTERIE_OK ||
        coterie_transport_open_threads(RANKS, NULL, transports) != COTERIE_OK) {
        fprintf(stderr, "engine: %s\n", coterie_last_error());
        return 1;
    }
    placement = made;
    for (int i = 0; i < RANKS; i++)
        pthread_create(&threads[i], NULL, serve, transports[i]);
    for (int i = 0; i < RANKS; i++) {
        pthread_join(threads[i], NULL);
        coterie_transport_close(transports[i]);
    }
    coterie_placement_destroy(made);
    for (int s = 0; s < SEQUENCES; s++)
        puts(text[s]);
    return 0;
}
