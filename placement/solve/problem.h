#ifndef COTERIE_PLACEMENT_SOLVE_PROBLEM_H
#define COTERIE_PLACEMENT_SOLVE_PROBLEM_H
/* What the solvers solve: plain arrays, free of traces and placements. Every
 * layer's experts are to be spread over ranks, each rank taking exactly its
 * capacity, so that little weight joins experts on different ranks. */
#include <coterie/status.h>

typedef struct coterie_problem {
    uint32_t layer_count, expert_count, rank_count, node_count;
    double network_cost;      /* of weight between nodes; 1 inside one */
    const uint32_t *capacity; /* [rank]: experts a layer */
    /* f32, for 60 layers of 512 experts in 63 MB; sums are taken in f64. */
    float *seam; /* [layer - 1, expert, expert of the next layer] */
    float *pair; /* [layer, expert, expert], symmetric, zero diagonal; each
                    unordered pair counts once. NULL: all zero */
    uint64_t *load;     /* [layer, expert] */
    uint64_t *load_max; /* [layer]: what a rank may carry; or NULL: anything */
    double tolerance;   /* costs closer than this are the same but for
                           rounding; coterie_problem_measure sets it */
} coterie_problem_t;

/* A legal placement and what is known of the best one. Solvers only ever
 * lower cost and raise bound. */
typedef struct coterie_solution {
    uint16_t *rank_of; /* [layer, expert] */
    double cost;
    double bound;        /* no legal placement costs less */
    const char *by;      /* the solver that found rank_of */
    const char *bound_by; /* the solver that proved bound */
    double *price; /* [layer, expert]: what each is worth in some good bound,
                      to begin others with; or NULL. Whoever made the solution
                      frees it. */
} coterie_solution_t;

/* Weight between layer and layer + 1, row-major. */
static inline const float *coterie_problem_seam(const coterie_problem_t *p,
                                                uint32_t layer)
{
    return p->seam + (size_t)layer * p->expert_count * p->expert_count;
}

/* Weight inside a layer; NULL if there is none. */
static inline const float *coterie_problem_pair(const coterie_problem_t *p,
                                                uint32_t layer)
{
    return p->pair == NULL
               ? NULL
               : p->pair + (size_t)layer * p->expert_count * p->expert_count;
}

static inline uint32_t coterie_problem_node(const coterie_problem_t *p,
                                            uint32_t rank)
{
    return rank / (p->rank_count / p->node_count);
}

/* What a unit of weight costs between two ranks. */
double coterie_problem_link(const coterie_problem_t *problem, uint32_t a,
                            uint32_t b);

/* The most experts of a layer that a rank takes; `alike` says whether ranks
 * descend from there, to no more than one less. */
uint32_t coterie_problem_capacity(const coterie_problem_t *problem, int *alike);

/* The objective, summed afresh: what every solver's claim is held against. */
double coterie_problem_cost(const coterie_problem_t *problem,
                            const uint16_t *rank_of);

/* All weight of a kind: its cost if all were apart on links of cost 1. */
double coterie_problem_seam_weight(const coterie_problem_t *problem);
double coterie_problem_pair_weight(const coterie_problem_t *problem);

/* The cost of a placement drawn at random, in expectation. */
double coterie_problem_random_cost(const coterie_problem_t *problem);

/* Capacities met and caps kept? */
int coterie_problem_legal(const coterie_problem_t *problem,
                          const uint16_t *rank_of);

/* Sets what follows from the weights: the tolerance. */
void coterie_problem_measure(coterie_problem_t *problem);

/* Takes candidate if it is better. */
void coterie_solution_offer(const coterie_problem_t *problem,
                            coterie_solution_t *solution,
                            const uint16_t *candidate, const char *by);

/* Takes a bound if it is better; one above the cost is rounding, and cut. */
void coterie_solution_prove(coterie_solution_t *solution, double bound,
                            const char *by);

/* Nothing is left to be found. */
int coterie_solution_optimal(const coterie_problem_t *problem,
                             const coterie_solution_t *solution);

#endif
