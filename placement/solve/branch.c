#include "config.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "base/error.h"
#include "placement/solve/columns.h"

/* Branch and bound on pairs of experts: in one half of all placements they
 * share a rank, in the other they do not (Ryan and Foster, 1981). Pairs of one
 * layer or of neighbouring ones are enough: where all of those are settled, a
 * column through an expert has no choice left. A decision is made by values
 * alone, which pricing and master take as they are: a column that breaks it is
 * worth less than nothing. The branch that promises most comes first, so that
 * the bound rises as it should. */

enum { NO_PARENT = -1, NODES_FIRST = 64 };

static const double FRACTION = 1e-6; /* of a column; less is rounding */

typedef struct node {
    int parent;     /* index, or NO_PARENT: no decision, the root */
    uint32_t a, b;  /* layer * experts + expert; b of a's layer or the next */
    int together;
    int open;
    double limit; /* most that can be kept below */
} node_t;

typedef struct tree {
    coterie_columns_t *c;
    node_t *nodes;
    int count, room;
    double *shared; /* like the chain's seam, then pair: how much of each pair
                       the relaxation puts on one rank */
} tree_t;

static int given_up(const coterie_columns_t *c);
static coterie_status_t tree_open(tree_t *tree, coterie_columns_t *c);
static int best_open(const tree_t *tree);
static coterie_status_t node_solve(tree_t *tree, int node);
static coterie_status_t node_close(tree_t *tree, int node);
static void node_decide(tree_t *tree, const node_t *node);
static void pair_add(tree_t *tree, const node_t *node, double value);
static int pair_unsettled(tree_t *tree, node_t *child);
static void share_pairs(tree_t *tree);
static coterie_status_t node_push(tree_t *tree, const node_t *node);
static coterie_status_t node_offer(tree_t *tree);

coterie_status_t coterie_columns_branch(coterie_columns_t *c)
{
    tree_t tree;
    coterie_status_t status = tree_open(&tree, c);

    c->branching = 1;
    while (status == COTERIE_OK && !given_up(c)) {
        int node = best_open(&tree);
        double limit = node == NO_PARENT ? -INFINITY : tree.nodes[node].limit;
        coterie_solution_prove(c->solution, c->weight - limit,
                               coterie_solver_columns.name);
        if (coterie_solution_optimal(c->problem, c->solution))
            break;
        status = node_solve(&tree, node);
    }
    free(tree.nodes);
    free(tree.shared);
    return status;
}

/* What is known holds, but nothing more will be. */
static int given_up(const coterie_columns_t *c)
{
    return c->search->stopped || c->master.failed;
}

/* The root is solved already. */
static coterie_status_t tree_open(tree_t *tree, coterie_columns_t *c)
{
    size_t cells = 2 * (size_t)c->problem->layer_count *
                   c->problem->expert_count * c->problem->expert_count;
    node_t root = {.parent = NO_PARENT, .limit = c->best_limit};
    coterie_status_t status;

    *tree = (tree_t){.c = c};
    tree->shared = calloc(cells, sizeof(*tree->shared));
    if (tree->shared == NULL)
        return coterie_fail_memory(cells * sizeof(*tree->shared), "branches");
    status = node_push(tree, &root);
    if (status == COTERIE_OK && !given_up(c))
        status = node_close(tree, 0);
    return status;
}

static int best_open(const tree_t *tree)
{
    int best = NO_PARENT;

    for (int i = 0; i < tree->count; i++)
        if (tree->nodes[i].open &&
            (best == NO_PARENT ||
             tree->nodes[i].limit > tree->nodes[best].limit))
            best = i;
    return best;
}

static coterie_status_t node_solve(tree_t *tree, int node)
{
    coterie_columns_t *c = tree->c;
    size_t items = (size_t)c->problem->layer_count * c->problem->expert_count;
    coterie_status_t status = coterie_columns_refill(c);

    if (status != COTERIE_OK)
        return status;
    node_decide(tree, &tree->nodes[node]);
    for (size_t i = 0; i < items; i++)
        c->price[i] = c->best_price[i];
    c->best_limit = INFINITY;
    coterie_columns_price(c);
    coterie_columns_drop(c);
    if (!coterie_columns_done(c))
        status = coterie_columns_generate(c);
    if (status != COTERIE_OK || given_up(c))
        return status;
    if (c->best_limit < tree->nodes[node].limit)
        tree->nodes[node].limit = c->best_limit;
    return node_close(tree, node);
}

/* A solved node holds nothing better, or is a placement, or falls in two. */
static coterie_status_t node_close(tree_t *tree, int node)
{
    node_t child = {.parent = node, .open = 1,
                    .limit = tree->nodes[node].limit};
    coterie_status_t status = COTERIE_OK;

    tree->nodes[node].open = 0;
    if (coterie_columns_done(tree->c))
        return COTERIE_OK;
    if (!pair_unsettled(tree, &child))
        return node_offer(tree);
    for (child.together = 0; child.together < 2; child.together++)
        if (status == COTERIE_OK)
            status = node_push(tree, &child);
    return status;
}

/* Values all decisions from the root down to here. */
static void node_decide(tree_t *tree, const node_t *node)
{
    coterie_columns_t *c = tree->c;
    size_t items = (size_t)c->problem->layer_count * c->problem->expert_count;
    double most = c->weight + c->problem->tolerance;

    for (size_t i = 0; i < items; i++)
        c->penalty[i] = 0;
    for (; node->parent != NO_PARENT; node = &tree->nodes[node->parent]) {
        pair_add(tree, node, node->together ? 2 * most : -most);
        if (node->together) { /* so that one without the other costs */
            c->penalty[node->a] -= most;
            c->penalty[node->b] -= most;
        }
    }
    for (uint32_t i = 0; i < c->class_count; i++)
        coterie_chain_refresh(&c->chain[i]);
    for (uint32_t i = 0; i < c->master.column_count; i++) {
        const coterie_column_t *column = &c->master.columns[i];
        coterie_master_revalue(&c->master, i,
                               coterie_columns_value(
                                   c, column->class,
                                   c->master.masks + column->at));
    }
}

static void pair_add(tree_t *tree, const node_t *node, double value)
{
    coterie_columns_t *c = tree->c;
    uint32_t e = c->problem->expert_count;

    for (uint32_t i = 0; i < c->class_count; i++) {
        if (node->a / e != node->b / e) {
            c->chain[i].seam[(size_t)node->a * e + node->b % e] += value;
            continue;
        }
        c->chain[i].pair[(size_t)node->a * e + node->b % e] += value;
        c->chain[i].pair[(size_t)node->b * e + node->a % e] += value;
    }
}

/* Fills in the least settled pair; 0 if all are settled. */
static int pair_unsettled(tree_t *tree, node_t *child)
{
    uint32_t e = tree->c->problem->expert_count;
    size_t half = (size_t)tree->c->problem->layer_count * e * e;
    double most = FRACTION;

    share_pairs(tree);
    for (size_t i = 0; i < 2 * half; i++) {
        double unsettled = fmin(tree->shared[i], 1 - tree->shared[i]);
        size_t cell = i % half;
        if (unsettled <= most)
            continue;
        most = unsettled;
        child->a = cell / e;
        child->b = (i < half ? child->a / e + 1 : child->a / e) * e + cell % e;
    }
    return most > FRACTION;
}

static void share_pairs(tree_t *tree)
{
    const coterie_columns_t *c = tree->c;
    uint32_t layers = c->problem->layer_count, e = c->problem->expert_count;
    size_t half = (size_t)layers * e * e;

    for (size_t i = 0; i < 2 * half; i++)
        tree->shared[i] = 0;
    for (uint32_t k = 0; k < c->master.column_count; k++) {
        const coterie_column_t *column = &c->master.columns[k];
        const uint32_t *masks = c->master.masks + column->at;
        if (column->share <= FRACTION)
            continue;
        for (size_t i = 0; i < 2 * half; i++) {
            size_t row = i % half / e, l = row / e, to = i < half ? l + 1 : l;
            if (to < layers && masks[l] >> row % e & 1 &&
                masks[to] >> i % e & 1 && (i < half || row % e < i % e))
                tree->shared[i] += column->share;
        }
    }
}

static coterie_status_t node_push(tree_t *tree, const node_t *node)
{
    if (tree->count == tree->room) {
        int room = tree->room > 0 ? 2 * tree->room : NODES_FIRST;
        node_t *nodes = realloc(tree->nodes, room * sizeof(*nodes));
        if (nodes == NULL)
            return coterie_fail_memory(room * sizeof(*nodes), "branches");
        tree->nodes = nodes;
        tree->room = room;
    }
    tree->nodes[tree->count++] = *node;
    return COTERIE_OK;
}

/* All is settled, so the relaxation is a placement. */
static coterie_status_t node_offer(tree_t *tree)
{
    coterie_columns_t *c = tree->c;
    uint32_t count = 0;

    for (uint32_t k = 0; k < c->master.column_count; k++)
        if (c->master.columns[k].share > 0.5 &&
            count < c->problem->rank_count)
            c->chosen[count++] = k;
    assert(count == c->problem->rank_count);
    return coterie_columns_offer(c);
}
