/* The smallest serving engine on Coterie: a toy model with a hash for a router,
 * served by two ranks, here threads. A real engine has attention and weights
 * where this one has arithmetic; the calls are the same. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include <coterie/coterie.h>

enum { RANKS = 2, LAYERS = 4, EXPERTS = 8, K = 2, HIDDEN = 16 };
enum { SEQUENCES = 3, TOKENS = 24 };

typedef struct rank {
    coterie_transport_t *transport;
    const coterie_placement_t *placement;
    coterie_rows_t here, next; /* rows before and after an exchange */
} rank_t;

static char text[SEQUENCES][TOKENS + 1]; /* ranks write different places */

static void check(const rank_t *rank, coterie_status_t status)
{
    if (status == COTERIE_OK)
        return;
    fprintf(stderr, "engine: %s\n", coterie_last_error());
    coterie_transport_abort(rank->transport); /* or the other would wait */
    exit(1);
}

/* The experts' input, from the residual stream. The runtime calls it where a
 * token's ownership arrives, the engine everywhere else. */
static coterie_status_t norm(void *engine, uint32_t layer, uint32_t count,
                             const float *hidden, float *normed)
{
    (void)engine, (void)layer;
    for (uint32_t i = 0; i < count * HIDDEN; i++)
        normed[i] = tanhf(hidden[i]);
    return COTERIE_OK;
}

/* This rank's experts, slot by slot: with a model, a coterie_bank_t does it.
 * In order means that slot i of rank r is expert r * EXPERTS / RANKS + i. */
static coterie_status_t experts(void *engine, uint32_t layer,
                                const coterie_expert_rows_t *rows,
                                const float *normed, float *sums)
{
    const rank_t *rank = engine;
    uint32_t first = coterie_transport_rank(rank->transport) * EXPERTS / RANKS;

    for (uint32_t slot = 0; slot < rows->expert_count; slot++)
        for (uint32_t i = rows->first[slot]; i < rows->first[slot + 1]; i++)
            for (uint32_t j = 0; j < HIDDEN; j++) {
                uint32_t at = rows->row[i] * HIDDEN + j;
                float turn = (float)((first + slot) * (layer + j));
                sums[at] += rows->weight[i] * sinf(turn + normed[at]);
            }
    return COTERIE_OK;
}

/* Every row that is here, through all layers. What a row gets may depend on
 * the row alone, never on its neighbours: then any rank can compute it. */
static void layers(rank_t *rank, coterie_session_t *session)
{
    coterie_rows_t *here = &rank->here;
    float normed[SEQUENCES * HIDDEN], weights[SEQUENCES * K];
    int32_t ids[SEQUENCES * K];

    for (uint32_t i = 0; i < here->count * HIDDEN; i++) /* embedding */
        here->hidden[i] =
            cosf((float)(here->token[i / HIDDEN] * (int)(i % HIDDEN + 1)));
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        coterie_rows_t spare;
        /* Attention would be here, and coterie_kv_put of its K and V. */
        norm(NULL, layer, here->count, here->hidden, normed);
        for (uint32_t i = 0; i < here->count * K; i++) { /* router */
            uint32_t row = i / K;
            ids[i] = (here->sequence[row] * 3 + here->position[row] * 5 +
                      (int)(layer + i % K * 3)) % EXPERTS;
            weights[i] = 1.0f / K;
        }
        here->normed = normed;
        here->topk_ids = ids;
        here->topk_weights = weights;
        /* The rows that come back may be others: in owner and forward modes a
         * token goes on where its experts are. */
        check(rank, coterie_exchange(session, layer, here, &rank->next));
        spare = *here;
        *here = rank->next;
        rank->next = spare;
    }
}

/* The next token of each row: here whatever element of the hidden state is
 * largest, as a letter. */
static void sample(rank_t *rank, coterie_session_t *session)
{
    coterie_rows_t *here = &rank->here;
    int32_t token[SEQUENCES], position[SEQUENCES];

    for (uint32_t i = 0; i < here->count; i++) {
        const float *hidden = here->hidden + i * HIDDEN;
        token[i] = 0;
        for (int32_t j = 1; j < HIDDEN; j++)
            if (hidden[j] > hidden[token[i]])
                token[i] = j;
        position[i] = here->position[i] + 1;
        text[here->sequence[i]][here->position[i]] = (char)('a' + token[i]);
    }
    check(rank, coterie_step_end(session, here->count, here->sequence,
                                 position, token));
}

static void *serve(void *arg)
{
    rank_t *rank = arg;
    uint32_t index = coterie_transport_rank(rank->transport);
    coterie_engine_t engine = {.size = sizeof(engine),
                               .engine = rank,
                               .norm = norm,
                               .experts = experts};
    coterie_session_options_t options = COTERIE_SESSION_OPTIONS_INIT;
    coterie_session_t *session;

    options.transport = rank->transport;
    options.placement = rank->placement;
    options.engine = &engine;
    options.hidden = HIDDEN;
    options.k = K;
    options.max_rows = SEQUENCES;
    options.mode = COTERIE_MODE_OWNER;
    check(rank, coterie_session_create(&options, &session));
    /* Prompts of one token, each at its sequence's home rank. */
    for (uint32_t s = index; s < SEQUENCES; s += RANKS) {
        rank->here.sequence[rank->here.count] = (int32_t)s;
        rank->here.position[rank->here.count] = 0;
        rank->here.token[rank->here.count++] = (int32_t)s + 1;
    }
    for (int i = 0; i < TOKENS; i++) { /* then where the runtime says */
        coterie_phase_t phase =
            i == 0 ? COTERIE_PHASE_PREFILL : COTERIE_PHASE_DECODE;
        check(rank, coterie_step_begin(session, phase, NULL, &rank->here));
        layers(rank, session);
        sample(rank, session);
    }
    coterie_session_destroy(session);
    return NULL;
}

/* Room for every sequence at once: all of them may meet on one rank. */
static void rows_create(coterie_rows_t *rows)
{
    *rows = (coterie_rows_t){.size = sizeof(*rows), .capacity = SEQUENCES};
    rows->sequence = calloc(SEQUENCES, sizeof(int32_t));
    rows->position = calloc(SEQUENCES, sizeof(int32_t));
    rows->token = calloc(SEQUENCES, sizeof(int32_t));
    rows->hidden = calloc(SEQUENCES * HIDDEN, sizeof(float));
}

static void rows_free(coterie_rows_t *rows)
{
    free(rows->sequence);
    free(rows->position);
    free(rows->token);
    free(rows->hidden);
}

int main(void)
{
    coterie_placement_options_t in_order = COTERIE_PLACEMENT_OPTIONS_INIT;
    coterie_transport_t *transports[RANKS];
    coterie_placement_t *placement;
    pthread_t threads[RANKS];
    rank_t ranks[RANKS];

    in_order.layer_count = LAYERS;
    in_order.expert_count = EXPERTS;
    in_order.rank_count = RANKS;
    if (coterie_placement_create(&in_order, &placement) != COTERIE_OK ||
        coterie_transport_open_threads(RANKS, NULL, transports) != COTERIE_OK) {
        fprintf(stderr, "engine: %s\n", coterie_last_error());
        return 1;
    }
    for (int i = 0; i < RANKS; i++) {
        ranks[i] = (rank_t){.transport = transports[i],
                            .placement = placement};
        rows_create(&ranks[i].here);
        rows_create(&ranks[i].next);
        pthread_create(&threads[i], NULL, serve, &ranks[i]);
    }
    for (int i = 0; i < RANKS; i++) {
        pthread_join(threads[i], NULL);
        coterie_transport_close(transports[i]);
        rows_free(&ranks[i].here);
        rows_free(&ranks[i].next);
    }
    coterie_placement_destroy(placement);
    for (int s = 0; s < SEQUENCES; s++)
        printf("%s\n", text[s]);
    return 0;
}
