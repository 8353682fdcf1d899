/* Top-k routers: a warp has a row, and each of its lanes every 32nd expert. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/warp.cuh"

enum { WARPS = 4 };

/* A warp's row, in shared memory. */
struct row_t {
    uint32_t lane;
    float *score;  /* [experts] what weights are made of */
    float *choice; /* [experts] with bias: what decides */
    float *group;  /* [groups] */
};

static __global__ void route(coterie_gpu_router_t r);
static __device__ bool row_score(const coterie_gpu_router_t &r,
                                 const row_t &row, const float *logits);
static __device__ void groups_score(const coterie_gpu_router_t &r,
                                    const row_t &row);
static __device__ float group_score(const coterie_gpu_router_t &r,
                                    const float *choice, uint32_t size);
static __device__ void groups_drop(const coterie_gpu_router_t &r,
                                   const row_t &row);
static __device__ uint32_t take_best(const coterie_gpu_router_t &r,
                                     const row_t &row);
static __device__ void row_weigh(const coterie_gpu_router_t &r,
                                 const row_t &row, const int32_t *ids,
                                 float *weights);
static __device__ float warp_max(float value);

static inline size_t row_floats(const coterie_router_options_t &options)
{
    return 2 * (size_t)options.expert_count + options.group_count;
}

int coterie_gpu_router(void *stream, const coterie_gpu_router_t *router)
{
    const cudaLaunchConfig_t config = launch_of(
        stream, ceil_div(router->rows, WARPS), WARP * WARPS,
        WARPS * row_floats(router->options) * sizeof(float));

    return router->rows > 0 ? cudaLaunchKernelEx(&config, route, *router)
                            : cudaSuccess;
}

static __global__ void route(coterie_gpu_router_t r)
{
    const coterie_router_options_t &o = r.options;
    const uint32_t warp = threadIdx.x / WARP;
    const uint32_t i = blockIdx.x * WARPS + warp;
    float *shared = (float *)shared_memory() +
                    warp * (2 * (size_t)o.expert_count + o.group_count);
    const row_t row = {threadIdx.x % WARP, shared, shared + o.expert_count,
                       shared + 2 * o.expert_count};
    int32_t *ids = r.ids + (size_t)i * o.k;
    float *weights = r.weights + (size_t)i * o.k;
    bool sound;

    if (i >= r.rows)
        return;
    sound = row_score(r, row, r.logits + (size_t)i * o.expert_count);
    if (!sound) {
        if (row.lane < o.k) {
            ids[row.lane] = NO_PAIR;
            weights[row.lane] = 0;
        }
        return;
    }
    if (o.group_count > 1) {
        groups_score(r, row);
        groups_drop(r, row);
    }
    for (uint32_t j = 0; j < o.k; j++) {
        const uint32_t best = take_best(r, row);
        if (row.lane == 0)
            ids[j] = (int32_t)best;
    }
    __syncwarp();
    row_weigh(r, row, ids, weights);
}

/* Whether the row can be routed at all. */
static __device__ bool row_score(const coterie_gpu_router_t &r,
                                 const row_t &row, const float *logits)
{
    const coterie_router_options_t &o = r.options;
    const bool softmax = o.scoring == COTERIE_SCORING_SOFTMAX;
    float highest = -INFINITY, sum = 0;
    bool sound = true;

    for (uint32_t e = row.lane; e < o.expert_count; e += WARP) {
        sound = sound && logits[e] < INFINITY;
        highest = max(highest, logits[e]);
    }
    highest = warp_max(highest);
    if (__ballot_sync(~0u, !sound) != 0 || highest == -INFINITY)
        return false;
    for (uint32_t e = row.lane; e < o.expert_count; e += WARP) {
        const float score = softmax ? expf(logits[e] - highest)
                                    : 1.0f / (1.0f + expf(-logits[e]));
        row.score[e] = score;
        sum += score;
    }
    sum = softmax ? warp_sum(sum) : 1;
    for (uint32_t e = row.lane; e < o.expert_count; e += WARP) {
        row.score[e] /= sum;
        row.choice[e] = row.score[e] + (o.bias != NULL ? o.bias[e] : 0);
    }
    __syncwarp();
    return true;
}

static __device__ void groups_score(const coterie_gpu_router_t &r,
                                    const row_t &row)
{
    const uint32_t size = r.options.expert_count / r.options.group_count;

    for (uint32_t g = row.lane; g < r.options.group_count; g += WARP)
        row.group[g] = group_score(r, row.choice + (size_t)g * size, size);
    __syncwarp();
}

/* Softmax routers take a group's best score, sigmoid ones the sum of its best
 * two (DeepSeek-V2 and V3). */
static __device__ float group_score(const coterie_gpu_router_t &r,
                                    const float *choice, uint32_t size)
{
    float first = -INFINITY, second = -INFINITY;

    for (uint32_t e = 0; e < size; e++) {
        second = max(second, min(choice[e], first));
        first = max(first, choice[e]);
    }
    return r.options.scoring == COTERIE_SCORING_SIGMOID && size > 1
               ? first + second
               : first;
}

/* Experts of groups that group_topk others precede cannot be chosen. */
static __device__ void groups_drop(const coterie_gpu_router_t &r,
                                   const row_t &row)
{
    const uint32_t groups = r.options.group_count;
    const uint32_t size = r.options.expert_count / groups;

    for (uint32_t g = row.lane; g < groups; g += WARP) {
        uint32_t before = 0;
        for (uint32_t h = 0; h < groups; h++)
            before += row.group[h] > row.group[g] ||
                      (row.group[h] == row.group[g] && h < g);
        for (uint32_t e = 0; before >= r.options.group_topk && e < size; e++)
            row.choice[g * size + e] = -INFINITY;
    }
    __syncwarp();
}

/* The expert that comes first of those left, the lower of equals; it is left
 * no more. */
static __device__ uint32_t take_best(const coterie_gpu_router_t &r,
                                     const row_t &row)
{
    const uint32_t count = r.options.expert_count;
    float best = -INFINITY;
    uint32_t at = count;

    for (uint32_t e = row.lane; e < count; e += WARP)
        if (row.choice[e] > best) {
            best = row.choice[e];
            at = e;
        }
    for (int step = WARP / 2; step > 0; step /= 2) {
        const float other = __shfl_xor_sync(~0u, best, step);
        const uint32_t there = __shfl_xor_sync(~0u, at, step);
        if (other > best || (other == best && there < at)) {
            best = other;
            at = there;
        }
    }
    if (row.lane == at % WARP)
        row.choice[at] = -INFINITY;
    return at;
}

static __device__ void row_weigh(const coterie_gpu_router_t &r,
                                 const row_t &row, const int32_t *ids,
                                 float *weights)
{
    const coterie_router_options_t &o = r.options;
    const float scale = o.scale != 0 ? o.scale : 1;
    float sum = 0;

    if (row.lane >= o.k)
        return;
    for (uint32_t j = 0; j < o.k; j++)
        sum += row.score[ids[j]];
    weights[row.lane] = row.score[ids[row.lane]] * scale /
                        (o.norm_topk ? sum + 1e-20f : 1.0f);
}

static __device__ float warp_max(float value)
{
    for (int step = WARP / 2; step > 0; step /= 2)
        value = max(value, __shfl_xor_sync(~0u, value, step));
    return value;
}
