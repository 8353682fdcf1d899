/* Experts' FFN by several threads. The blocks of all experts pass through four
 * stages. Round r has block r packed, the one before it multiplied by gate and
 * up, the one before that packed again, and that before it multiplied by down:
 * what a stage needs was done a round ago, so that threads rarely wait for one
 * another. Stage t = 4 r + k begins once all up to t - 3 have ended, which is
 * also what lets two of each kind of memory do. Down adds to sums, so its
 * stages follow one another: a row's sum has one order. */
#include "config.h"

#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "kernels/cpu/expert.h"
#include "kernels/pool.h"

enum {
    LINE = 64,
    NODES_MAX = 64,
    STAGES = 4, /* of a block */
    LAG = 3,    /* stages between one and what it relies on */
    RING = 8,   /* of stages that are kept apart; more than LAG + 2 */
    PACK_ROWS = 4, /* worth a thread's while */
    SPINS = 4096
};

typedef enum kind { PACK, GATE_UP, PACK_INNER, DOWN } kind_t;

/* A stage on its way: `turn` is the one that has this place in the ring now.
 * Its parts are dealt out by node, in shares that follow one another. */
typedef struct stage {
    _Alignas(LINE) atomic_uint turn;
    atomic_uint left;                   /* parts not yet done */
    _Alignas(LINE) atomic_ullong next[NODES_MAX]; /* turn << 32 | part */
} stage_t;

/* Which block of which expert; it only moves on. */
typedef struct cursor {
    uint32_t block, expert, ordinal;
} cursor_t;

typedef struct work {
    const coterie_ffn_call_t *call;
    coterie_block_t block; /* what all blocks have in common */
    uint32_t blocks, stages, nodes;
    uint32_t packs; /* parts that rows are packed in */
    atomic_uint joined;
    stage_t *ring;
    char *x[2], *packed[2];
    float *inner[2], *narrow; /* of each thread */
} work_t;

/* One thread's view. */
typedef struct hand {
    work_t *work;
    uint32_t node, lane; /* the lane-th thread that joined */
    coterie_block_t block;
    cursor_t cursors[STAGES];
} hand_t;

static uint32_t cut_of(const coterie_pool_t *pool,
                       const coterie_block_t *block);
static void work_begin(work_t *work, const coterie_pool_t *pool,
                       const coterie_ffn_call_t *call);
static uint32_t blocks_count(const coterie_expert_rows_t *rows,
                             uint32_t *largest_p);
static void work_join(void *arg, uint32_t node);
static void stage_run(hand_t *hand, uint32_t t);
static void turn_await(const work_t *work, uint32_t t, uint32_t turn);
static void stage_open(work_t *work, uint32_t place, uint32_t t);
static uint32_t parts_of(const work_t *work, uint32_t t);
static int part_take(work_t *work, uint32_t t, uint32_t node,
                     uint32_t *part_p);
static void part_run(hand_t *hand, uint32_t t, uint32_t part);
static void part_done(work_t *work, uint32_t t);
static void block_seek(hand_t *hand, kind_t kind, uint32_t block);
static void block_name_next(hand_t *hand, kind_t kind, uint32_t block);
static const cursor_t *cursor_seek(hand_t *hand, kind_t kind, uint32_t block);
static const void *lane_cut(const hand_t *hand, const void *matrix,
                            uint32_t in, uint32_t out);
static uint32_t share(uint64_t count, uint32_t node, uint32_t nodes);
static void matrix_place(const coterie_pool_t *pool, uint32_t dtype,
                         const char *matrix, uint32_t out, uint32_t in);

size_t coterie_pool_scratch(const coterie_pool_t *pool,
                            const coterie_ffn_shape_t *shape)
{
    coterie_block_t block;

    if (pool == NULL || coterie_pool_threads(pool) == 1)
        return coterie_expert_ffn_scratch(shape);
    coterie_block_begin(&block, shape);
    block.cut = cut_of(pool, &block);
    return LINE - 1 + RING * sizeof(stage_t) +
           2 * (coterie_block_x_size(&block) +
                coterie_block_inner_size(&block) +
                coterie_block_packed_size(&block)) +
           coterie_pool_threads(pool) * coterie_block_narrow_size(&block);
}

void coterie_pool_ffn(coterie_pool_t *pool, const coterie_ffn_call_t *call)
{
    work_t work;

    if (pool == NULL || coterie_pool_threads(pool) == 1) {
        coterie_expert_ffn(call->shape, call->experts, call->rows, call->x,
                           call->sums, call->scratch);
        return;
    }
    work_begin(&work, pool, call);
    if (work.blocks > 0)
        coterie_pool_run(pool, work_join, &work);
}

void coterie_pool_place(const coterie_pool_t *pool,
                        const coterie_ffn_shape_t *shape,
                        const coterie_expert_weights_t *expert)
{
    if (pool == NULL || coterie_pool_nodes(pool) == 1)
        return;
    matrix_place(pool, shape->dtype, expert->gate, shape->ffn, shape->hidden);
    matrix_place(pool, shape->dtype, expert->up, shape->ffn, shape->hidden);
    matrix_place(pool, shape->dtype, expert->down, shape->hidden, shape->ffn);
}

/* Small enough that every thread gets two cuts of a matrix. */
static uint32_t cut_of(const coterie_pool_t *pool,
                       const coterie_block_t *block)
{
    const uint32_t least = block->shape->ffn < block->shape->hidden
                               ? block->shape->ffn
                               : block->shape->hidden;
    const uint32_t cut = least / COTERIE_PANEL_OUTPUTS /
                         (2 * coterie_pool_threads(pool));

    if (cut >= COTERIE_CUT_PANELS)
        return COTERIE_CUT_PANELS;
    return cut < COTERIE_PANELS_MAX ? COTERIE_PANELS_MAX
                                    : cut - cut % COTERIE_PANELS_MAX;
}

static void work_begin(work_t *work, const coterie_pool_t *pool,
                       const coterie_ffn_call_t *call)
{
    const size_t past = (uintptr_t)call->scratch % LINE;
    char *memory = (char *)call->scratch + (past > 0 ? LINE - past : 0);
    uint32_t rows;

    *work = (work_t){.call = call, .nodes = coterie_pool_nodes(pool)};
    work->blocks = blocks_count(call->rows, &rows);
    work->packs = (rows + PACK_ROWS - 1) / PACK_ROWS;
    if (work->packs > coterie_pool_threads(pool))
        work->packs = coterie_pool_threads(pool);
    work->stages = STAGES * (work->blocks + STAGES - 1);
    coterie_block_begin(&work->block, call->shape);
    work->block.cut = cut_of(pool, &work->block);
    work->block.stride = coterie_pool_threads(pool);
    work->ring = (stage_t *)memory;
    memory += RING * sizeof(stage_t);
    for (int i = 0; i < 2; i++) {
        work->x[i] = memory;
        memory += coterie_block_x_size(&work->block);
        work->inner[i] = (float *)memory;
        memory += coterie_block_inner_size(&work->block);
        work->packed[i] = memory;
        memory += coterie_block_packed_size(&work->block);
    }
    work->narrow = (float *)memory;
    for (uint32_t t = 0; t < RING; t++)
        stage_open(work, t, t);
}

static uint32_t blocks_count(const coterie_expert_rows_t *rows,
                             uint32_t *largest_p)
{
    uint32_t count = 0, largest = 0;

    for (uint32_t e = 0; e < rows->expert_count; e++) {
        const uint32_t here = rows->first[e + 1] - rows->first[e];

        largest = here > largest ? here : largest;
        count += coterie_block_count(here);
    }
    *largest_p = largest < COTERIE_ROW_BLOCK ? largest : COTERIE_ROW_BLOCK;
    return count;
}

static void work_join(void *arg, uint32_t node)
{
    work_t *work = arg;
    const size_t narrow =
        coterie_block_narrow_size(&work->block) / sizeof(float);
    hand_t hand = {.work = work, .node = node, .block = work->block};

    hand.lane = atomic_fetch_add(&work->joined, 1);
    hand.block.narrow = work->narrow + narrow * hand.lane;
    for (uint32_t t = 0; t < work->stages; t++)
        stage_run(&hand, t);
}

static void stage_run(hand_t *hand, uint32_t t)
{
    work_t *work = hand->work;
    uint32_t part;

    turn_await(work, t, t);
    for (uint32_t n = 0; n < work->nodes; n++) {
        const uint32_t node = (hand->node + n) % work->nodes;

        while (part_take(work, t, node, &part)) {
            for (uint32_t s = t < LAG + 2 ? 0 : t - LAG - 2; s + LAG <= t; s++)
                turn_await(work, s, s + 1);
            part_run(hand, t, part);
            part_done(work, t);
        }
    }
}

/* Until the place of stage t is at `turn` or past it. Whoever is waited for is
 * at work: look again at once, and yield only if that takes long. */
static void turn_await(const work_t *work, uint32_t t, uint32_t turn)
{
    const stage_t *stage = &work->ring[t % RING];

    for (uint32_t spin = 0;
         atomic_load_explicit(&stage->turn, memory_order_acquire) < turn;
         spin++)
        if (spin >= SPINS)
            sched_yield();
}

/* Stages without parts are over at once; then the next in this place opens. */
static void stage_open(work_t *work, uint32_t place, uint32_t t)
{
    stage_t *stage = &work->ring[place];
    uint32_t parts = 0;

    while (t < work->stages && (parts = parts_of(work, t)) == 0)
        t += RING;
    atomic_store_explicit(&stage->left, parts, memory_order_relaxed);
    for (uint32_t node = 0; node < work->nodes; node++)
        atomic_store_explicit(&stage->next[node],
                              (uint64_t)t << 32 |
                                  share(parts, node, work->nodes),
                              memory_order_release);
    atomic_store_explicit(&stage->turn, t, memory_order_release);
}

static uint32_t parts_of(const work_t *work, uint32_t t)
{
    const uint32_t round = t / STAGES;
    const kind_t kind = (kind_t)(t % STAGES);

    if (round < kind || round - kind >= work->blocks)
        return 0;
    if (kind == GATE_UP)
        return coterie_block_inner_cuts(&work->block);
    return kind == DOWN ? coterie_block_outer_cuts(&work->block)
                        : work->packs;
}

/* The next part of a node's share, unless the stage is over or all of them are
 * taken. */
static int part_take(work_t *work, uint32_t t, uint32_t node,
                     uint32_t *part_p)
{
    atomic_ullong *next = &work->ring[t % RING].next[node];
    const uint32_t end = share(parts_of(work, t), node + 1, work->nodes);
    unsigned long long seen = atomic_load(next);

    while (seen >> 32 == t && (uint32_t)seen < end)
        if (atomic_compare_exchange_weak(next, &seen, seen + 1)) {
            *part_p = (uint32_t)seen;
            return 1;
        }
    return 0;
}

static void part_run(hand_t *hand, uint32_t t, uint32_t part)
{
    const kind_t kind = (kind_t)(t % STAGES);
    const uint32_t block = t / STAGES - kind;

    block_seek(hand, kind, block);
    switch (kind) {
    case PACK:
        coterie_block_pack(&hand->block, part, hand->work->packs);
        break;
    case GATE_UP:
        coterie_block_gate_up(&hand->block, part);
        break;
    case PACK_INNER:
        coterie_block_pack_inner(&hand->block, part, hand->work->packs);
        break;
    case DOWN:
        coterie_block_down(&hand->block, part);
    }
}

static void part_done(work_t *work, uint32_t t)
{
    stage_t *stage = &work->ring[t % RING];

    if (atomic_fetch_sub(&stage->left, 1) == 1)
        stage_open(work, t % RING, t + RING);
}

static void block_seek(hand_t *hand, kind_t kind, uint32_t block)
{
    const work_t *work = hand->work;
    const cursor_t *at = cursor_seek(hand, kind, block);

    coterie_block_set(&hand->block, work->call, at->expert, at->ordinal);
    hand->block.x = work->x[block % 2];
    hand->block.inner = work->inner[block % 2];
    hand->block.packed = work->packed[block % 2];
    if (kind == GATE_UP || kind == DOWN)
        block_name_next(hand, kind, block);
}

/* Gate and up of a block are followed by down of two before it, and that by
 * gate and up of three after that. */
static void block_name_next(hand_t *hand, kind_t kind, uint32_t block)
{
    const coterie_ffn_call_t *call = hand->work->call;
    const coterie_expert_weights_t *expert;

    hand->block.after_up = hand->block.after_down = NULL;
    if (kind == GATE_UP && block >= DOWN - GATE_UP) {
        expert = &call->experts[cursor_seek(hand, DOWN,
                                            block - (DOWN - GATE_UP))->expert];
        hand->block.after_up = lane_cut(hand, expert->down, call->shape->ffn,
                                        call->shape->hidden);
    }
    if (kind == DOWN && block + DOWN < hand->work->blocks) {
        expert =
            &call->experts[cursor_seek(hand, GATE_UP, block + DOWN)->expert];
        hand->block.after_down =
            lane_cut(hand, coterie_block_first(expert), call->shape->hidden,
                     call->shape->ffn);
    }
}

/* Moves a stage's cursor on to a block. */
static const cursor_t *cursor_seek(hand_t *hand, kind_t kind, uint32_t block)
{
    const uint32_t *first = hand->work->call->rows->first;
    cursor_t *at = &hand->cursors[kind];

    for (;;) {
        const uint32_t here =
            coterie_block_count(first[at->expert + 1] - first[at->expert]);

        if (at->block + here > block)
            break;
        at->block += here;
        at->expert++;
    }
    at->ordinal = block - at->block;
    return at;
}

/* The cut of a matrix that this thread will probably take first. */
static const void *lane_cut(const hand_t *hand, const void *matrix,
                            uint32_t in, uint32_t out)
{
    const uint32_t outputs =
        hand->lane * hand->block.cut * COTERIE_PANEL_OUTPUTS;

    if (outputs >= out)
        return NULL;
    return (const char *)matrix +
           coterie_panels_size(hand->block.shape->dtype, outputs, in);
}

/* Where a node's share of so many begins. */
static uint32_t share(uint64_t count, uint32_t node, uint32_t nodes)
{
    return (uint32_t)(count * node / nodes);
}

static void matrix_place(const coterie_pool_t *pool, uint32_t dtype,
                         const char *matrix, uint32_t out, uint32_t in)
{
    const uint32_t nodes = coterie_pool_nodes(pool);
    const uint64_t panel =
        coterie_panels_size(dtype, COTERIE_PANEL_OUTPUTS, in);
    const uint64_t panels =
        (out + COTERIE_PANEL_OUTPUTS - 1) / COTERIE_PANEL_OUTPUTS;

    for (uint32_t node = 0; matrix != NULL && node < nodes; node++) {
        const uint64_t from = panel * share(panels, node, nodes);
        const uint64_t to = panel * share(panels, node + 1, nodes);

        coterie_pool_bind(pool, node, matrix + from, to - from);
    }
}
