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

/** Name of the instruction set in use: "portable", "avx2", "avx512",
 * "avx512-vnni", "avx512-bf16" or "avx512-amx". Chosen once, by what the
 * processor and the operating system allow, and COTERIE_ISA (one of these
 * names). All but portable, which does not fuse multiplication and addition,
 * give the same bits; COTERIE_COMPUTE_BF16 alone gives others with avx512-bf16
 * where there are denormals, and with avx512-amx for weights in bf16. */
COTERIE_API const char *coterie_kernels_isa(void);

#ifdef __cplusplus
}
#endif
#endif
