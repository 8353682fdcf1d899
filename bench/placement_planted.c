#include "config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench/placement.h"

enum { SEQUENCE_TOKENS = 100, NOISE = 1 << 16, SUCCESSORS = 2 };

typedef struct garden {
    const planting_t *p;
    uint64_t random;
    float *liking;     /* [layer, topic, expert] */
    int32_t *follower; /* [layer, expert, SUCCESSORS] */
    float *noise;      /* [NOISE]: Gumbel's, so that the best is a draw */
    double *topic_sum; /* [topic] */
    float *score;      /* [expert] */
} garden_t;

static uint64_t draw(garden_t *g);
static double share(garden_t *g);
static void garden_open(garden_t *g);
static void layer_plant(garden_t *g, uint32_t layer);
static void garden_close(garden_t *g);
static uint32_t topic_draw(garden_t *g);
static void experts_choose(garden_t *g, uint32_t layer, uint32_t topic,
                           int32_t before, int16_t *ids);

coterie_trace_t *planted_trace(const planting_t *planting)
{
    garden_t g = {.p = planting, .random = planting->seed * 2654435761u + 1};
    uint64_t sequences = (planting->tokens + SEQUENCE_TOKENS - 1) /
                         SEQUENCE_TOKENS;
    size_t row = (size_t)planting->layers * planting->k;
    int16_t *experts = malloc(planting->tokens * row * sizeof(*experts));
    uint64_t *start = calloc(sequences + 1, sizeof(*start));
    coterie_trace_view_t view = {.token_count = planting->tokens,
                                 .sequence_count = sequences,
                                 .layer_count = planting->layers,
                                 .expert_count = planting->experts,
                                 .k = planting->k,
                                 .experts = experts,
                                 .seq_start = start};
    coterie_trace_t *trace = NULL;

    garden_open(&g);
    for (uint64_t s = 0; s <= sequences; s++)
        start[s] = s < sequences ? s * SEQUENCE_TOKENS : planting->tokens;
    for (uint32_t t = 0; t < planting->tokens; t++) {
        uint32_t topic = topic_draw(&g);
        for (uint32_t l = 0; l < planting->layers; l++) {
            int16_t *ids = experts + t * row + l * planting->k;
            if (l > 0 && share(&g) > planting->stay)
                topic = topic_draw(&g);
            experts_choose(&g, l, topic, l > 0 ? *(ids - planting->k) : -1,
                           ids);
        }
    }
    if (coterie_trace_create(&view, &trace) != COTERIE_OK)
        fprintf(stderr, "placement: %s\n", coterie_last_error());
    garden_close(&g);
    free(experts);
    free(start);
    return trace;
}

/* splitmix64 (Steele, Lea and Flood, 2014). */
static uint64_t draw(garden_t *g)
{
    uint64_t z = g->random += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* Between 0 and 1, neither included. */
static double share(garden_t *g)
{
    return ((double)(draw(g) >> 12) + 0.5) * 0x1p-52;
}

static void garden_open(garden_t *g)
{
    const planting_t *p = g->p;
    double sum = 0;

    g->liking = calloc((size_t)p->layers * p->topics * p->experts,
                       sizeof(*g->liking));
    g->follower = calloc((size_t)p->layers * p->experts * SUCCESSORS,
                         sizeof(*g->follower));
    g->noise = calloc(NOISE, sizeof(*g->noise));
    g->topic_sum = calloc(p->topics, sizeof(*g->topic_sum));
    g->score = calloc(p->experts, sizeof(*g->score));
    if (!g->liking || !g->follower || !g->noise || !g->topic_sum ||
        !g->score) {
        fputs("placement: out of memory\n", stderr);
        exit(1);
    }
    for (int i = 0; i < NOISE; i++)
        g->noise[i] = (float)-log(-log((i + 0.5) / NOISE));
    for (uint32_t d = 0; d < p->topics; d++)
        g->topic_sum[d] = sum += 1 / sqrt(d + 1.0);
    for (uint32_t l = 0; l < p->layers; l++)
        layer_plant(g, l);
}

static void layer_plant(garden_t *g, uint32_t layer)
{
    const planting_t *p = g->p;
    uint32_t *place = calloc(p->experts, sizeof(*place));

    for (uint32_t e = 0; place != NULL && e < p->experts; e++) {
        uint32_t other = (uint32_t)(draw(g) % (e + 1));
        place[e] = place[other];
        place[other] = e;
    }
    for (uint32_t e = 0; place != NULL && e < p->experts; e++) {
        uint32_t loved = (uint32_t)(draw(g) % p->topics);
        uint32_t liked = (uint32_t)(draw(g) % p->topics);
        double much = p->topic * (0.5 + share(g));
        double some = p->topic * 0.5 * share(g);
        for (uint32_t d = 0; d < p->topics; d++) {
            double normal = sqrt(-2 * log(share(g))) *
                            cos(6.283185307179586 * share(g));
            g->liking[((size_t)layer * p->topics + d) * p->experts + e] =
                (float)((d == loved) * much + (d == liked) * some +
                        0.3 * normal - p->popular * log(place[e] + 1.0));
        }
        for (int i = 0; i < SUCCESSORS; i++)
            g->follower[((size_t)layer * p->experts + e) * SUCCESSORS +
                        (size_t)i] = (int32_t)(draw(g) % p->experts);
    }
    free(place);
}

static void garden_close(garden_t *g)
{
    free(g->liking);
    free(g->follower);
    free(g->noise);
    free(g->topic_sum);
    free(g->score);
}

static uint32_t topic_draw(garden_t *g)
{
    double at = share(g) * g->topic_sum[g->p->topics - 1];
    uint32_t topic = 0;

    while (topic + 1 < g->p->topics && g->topic_sum[topic] < at)
        topic++;
    return topic;
}

static void experts_choose(garden_t *g, uint32_t layer, uint32_t topic,
                           int32_t before, int16_t *ids)
{
    const planting_t *p = g->p;
    const float *liking =
        g->liking + ((size_t)layer * p->topics + topic) * p->experts;

    for (uint32_t e = 0; e < p->experts; e++)
        g->score[e] = liking[e] + g->noise[draw(g) % NOISE];
    for (int i = 0; before >= 0 && i < SUCCESSORS; i++) {
        const int32_t *followers =
            g->follower +
            ((size_t)(layer - 1) * p->experts + (size_t)before) * SUCCESSORS;
        if (i == 0 || followers[i] != followers[0])
            g->score[followers[i]] += (float)p->follow;
    }
    for (uint32_t i = 0; i < p->k; i++) {
        uint32_t best = 0;
        for (uint32_t e = 1; e < p->experts; e++)
            if (g->score[e] > g->score[best])
                best = e;
        ids[i] = (int16_t)best;
        g->score[best] = -INFINITY;
    }
}
