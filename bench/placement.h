#ifndef COTERIE_BENCH_PLACEMENT_H
#define COTERIE_BENCH_PLACEMENT_H
/* What bench/placement's files share: one instance, and those who try it. */
#include <coterie/coterie.h>
#include <coterie/place.h>

/* A routing trace drawn with affinity between layers: topics that prefer
 * experts, and experts that draw successors. */
typedef struct planting {
    uint32_t layers, experts, k, tokens, topics, seed;
    double topic;   /* how strongly a topic prefers its experts */
    double stay;    /* chance that a token keeps its topic */
    double popular; /* exponent of experts' popularity */
    double follow;  /* bonus of the planted successors */
} planting_t;

/* How much affinity is planted. */
#define MEDIUM .topic = 2, .stay = 0.8, .popular = 0.5, .follow = 1
#define WEAK .topic = 1, .stay = 0.5, .popular = 0.5, .follow = 0.5
#define STRONG .topic = 3.5, .stay = 0.95, .popular = 0.5, .follow = 2

coterie_trace_t *planted_trace(const planting_t *planting);

typedef struct instance {
    coterie_trace_t *train, *held;
    coterie_trace_view_t view; /* of train */
    uint32_t ranks, nodes;
    double network_cost, seconds;
    coterie_objective_t objective;
    uint32_t *capacity; /* [rank] */
    double *seam;       /* [layer - 1, expert, expert]: counts */
    double *load;       /* [layer, expert] */
} instance_t;

/* Runs the goals whose names contain this, for so many seconds each or, if
 * that is 0, as long as is promised. @return 0, or not: it failed */
int goals_run(const char *name, uint32_t seed, double seconds);

/* A copy from one rank to another. */
double instance_link(const instance_t *instance, uint32_t a, uint32_t b);

/* Each fills rank_of [layer, expert], or returns 0 if it found nothing. */
typedef int (*method_t)(const instance_t *instance, uint16_t *rank_of);

int place_in_order(const instance_t *instance, uint16_t *rank_of);
int place_at_random(const instance_t *instance, uint16_t *rank_of);
/* DeepSeek's EPLB without replicas: heaviest first, lightest rank. */
int place_by_load(const instance_t *instance, uint16_t *rank_of);
/* Layer by layer, the strongest tie to a rank first. */
int place_greedily(const instance_t *instance, uint16_t *rank_of);
/* METIS, one balance constraint a layer; what is over is moved off. */
int place_by_metis(const instance_t *instance, uint16_t *rank_of);
/* ExFlow's integer programme written out, for as long as the instance says. */
int place_by_glpk(const instance_t *instance, uint16_t *rank_of);
int place_by_cbc(const instance_t *instance, uint16_t *rank_of);

#endif
