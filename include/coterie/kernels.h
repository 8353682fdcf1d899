#ifndef COTERIE_KERNELS_H
#define COTERIE_KERNELS_H
/** @file
 * Kernels on the CPU. Every one gives a row the same bits whatever rows it is
 * computed with and however many threads compute it, which is what lets
 * several ranks route one token alike. None allocates; any thread. Tensors are
 * row-major and the caller's; f32 unless said; no alignment is needed. */
#include <coterie/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/** y[n, out] = x[n, in] times weight[out, in] transposed, plus bias[out]
 * (may be NULL). f32 accumulation. */
COTERIE_API void coterie_linear(uint32_t n, uint32_t in, uint32_t out,
                                const float *x, const void *weight,
                                coterie_dtype_t weight_dtype,
                                const float *bias, float *y);

/** y = x / sqrt(mean(x^2) + eps) * weight, by rows of `width`. In place is
 * fine. Source: Zhang and Sennrich, 2019. */
COTERIE_API void coterie_rms_norm(uint32_t n, uint32_t width, float eps,
                                  const float *x, const float *weight,
                                  float *y);

/** How scores become experts and weights. Values are ABI. */
typedef enum coterie_scoring {
    COTERIE_SCORING_SOFTMAX = 0, /**< softmax over all experts */
    COTERIE_SCORING_SIGMOID = 1  /**< DeepSeek-V3 */
} coterie_scoring_t;

/** Start from COTERIE_ROUTER_OPTIONS_INIT. */
typedef struct coterie_router_options {
    size_t size;
    uint32_t expert_count; /**< required */
    uint32_t k;            /**< required; at most COTERIE_K_MAX */
    uint32_t scoring;      /**< coterie_scoring_t */
    uint32_t norm_topk;    /**< 1: divide the k weights by their sum */
    uint32_t group_count;  /**< > 1: only experts of the best groups, */
    uint32_t group_topk;   /**< this many, may be chosen */
    float scale;           /**< of the weights; 0 = 1 */
    float reserved;
    const float *bias; /**< [expert_count] for choosing only, or NULL */
} coterie_router_options_t;

#define COTERIE_ROUTER_OPTIONS_INIT { .size = sizeof(coterie_router_options_t) }

/** Top-k router: logits [n, expert_count] to ids and weights [n, k], in
 * descending score; ties go to the lower id. At most 4096 experts.
 * @return ERR_INVALID if k or the groups do not fit expert_count, or if a logit
 *         is NaN or +infinity, or all of a row are -infinity (row named) */
COTERIE_API coterie_status_t coterie_router_topk(
    const coterie_router_options_t *options, uint32_t n, const float *logits,
    int32_t *topk_ids, float *topk_weights);

/** Rows grouped by expert: pair i of expert e (first[e] <= i < first[e + 1])
 * is row row[i] with weight weight[i]. Rows within an expert ascend. */
typedef struct coterie_expert_rows {
    uint32_t expert_count;
    uint32_t row_count;    /**< rows of x and of sums */
    const uint32_t *first; /**< [expert_count + 1] */
    const uint32_t *row;   /**< [first[expert_count]] */
    const float *weight;   /**< the same length */
} coterie_expert_rows_t;

/** One expert's matrices, borrowed. */
typedef struct coterie_expert_weights {
    const void *gate; /**< [ffn, hidden] */
    const void *up;   /**< [ffn, hidden] */
    const void *down; /**< [hidden, ffn] */
} coterie_expert_weights_t;

/** Shape shared by all experts of a call. */
typedef struct coterie_ffn_shape {
    uint32_t hidden, ffn;
    uint32_t dtype;    /**< coterie_dtype_t of the weights */
    uint32_t reserved; /**< zero */
} coterie_ffn_shape_t;

/** Bytes of scratch that coterie_expert_ffn needs for this shape. */
COTERIE_API size_t coterie_expert_ffn_scratch(const coterie_ffn_shape_t *shape);

/** sums[row] += weight * down(silu(gate x) * up x), for every pair, experts
 * ascending, so that a row's sum has one order.
 *
 * @param experts  [rows->expert_count]; those without rows are not touched
 * @param x        [row_count, hidden]
 * @param sums     [row_count, hidden]
 * @param scratch  coterie_expert_ffn_scratch bytes, one a thread */
COTERIE_API void coterie_expert_ffn(const coterie_ffn_shape_t *shape,
                                    const coterie_expert_weights_t *experts,
                                    const coterie_expert_rows_t *rows,
                                    const float *x, float *sums,
                                    void *scratch);

/** Name of the instruction set in use: "portable", "avx2" or "avx512". Chosen
 * once, by what the processor has and COTERIE_ISA (one of these names). The two
 * latter give the same bits; portable, which does not fuse, gives others. */
COTERIE_API const char *coterie_kernels_isa(void);

#ifdef __cplusplus
}
#endif
#endif
