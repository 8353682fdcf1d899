#ifndef COTERIE_FFN_H
#define COTERIE_FFN_H
/** @file
 * Expert FFNs on the CPU, on weights laid out in panels. A row's result has the
 * same bits whatever rows it is computed with and however many threads compute
 * it. Nothing here allocates; any thread. Tensors are the caller's; no
 * alignment is needed, though panels are read fastest from 64 bytes on. */
#include <coterie/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/** What is applied between the products. Values are ABI. */
typedef enum coterie_activation {
    COTERIE_ACTIVATION_SWIGLU = 0, /**< silu(gate) * up */
    COTERIE_ACTIVATION_GEGLU = 1,  /**< gelu(gate) * up, with tanh */
    COTERIE_ACTIVATION_RELU = 2,   /**< relu(gate) * up */
    /** gpt-oss: (up + 1) * gate * sigmoid(alpha * gate), gate at most `limit`,
     * up within it */
    COTERIE_ACTIVATION_SWIGLU_CLAMPED = 3
} coterie_activation_t;

/** How x and the values between the products enter the next product; sums are
 * f32 always. Values are ABI. */
typedef enum coterie_compute {
    COTERIE_COMPUTE_F32 = 0,  /**< as they are; weights are decoded to f32 */
    COTERIE_COMPUTE_BF16 = 1, /**< rounded to bf16; weights are, exactly */
    /** Rounded to int8, with a scale for each row and 128 elements; those of
     * which all are below 1e-30 become 0 */
    COTERIE_COMPUTE_INT8 = 2
} coterie_compute_t;

/** Shape shared by all experts of a call. */
typedef struct coterie_ffn_shape {
    uint32_t hidden, ffn;
    uint32_t dtype;      /**< coterie_dtype_t of the weights */
    uint32_t activation; /**< coterie_activation_t */
    uint32_t compute;    /**< coterie_compute_t */
    uint32_t reserved;   /**< zero */
    float alpha, limit;  /**< of SWIGLU_CLAMPED */
} coterie_ffn_shape_t;

/** Panels. A matrix [out, in] is cut into panels of 16 outputs, the last one
 * filled up with zero weights. A panel is one contiguous sequence of 64-byte
 * vectors along `in`, which is filled up with zeros to a whole vector. In a
 * vector the 16 outputs follow one another, each with 4 bytes:
 *
 *     F32                     1 element
 *     F16, BF16               2 consecutive elements
 *     INT8, INT8_GROUP, FP8   4
 *     INT4, INT4_ZERO, MXFP4  8: byte j has element j in its low half and
 *                             element j + 4 in its high half
 *
 * Scales of groups of 32 elements lie between the weights, for they are read
 * together: a vector of them precedes the weights of as many groups as it has
 * scales for, which make a bundle; the last one may have fewer:
 *
 *     INT8_GROUP, INT4        2 groups: [group][16] f16
 *     INT4_ZERO               1: [2][16] f16, scales before minimums
 *     MXFP4                   4: [group][16] e8m0
 *
 * Others are an array of their own: f32 of every output, to a whole panel
 * (INT8); f32 [out / 128][in / 128], rounded up, of blocks (FP8). The codes of
 * INT4 mean -8 to 7, those of INT4_ZERO 0 to 15. */
enum {
    COTERIE_PANEL_OUTPUTS = 16,
    COTERIE_PANEL_GROUP = 32,
    COTERIE_FP8_BLOCK = 128
};

/** Elements of one output in a 64-byte vector; 0 for what is no dtype. */
COTERIE_API uint32_t coterie_panels_step(uint32_t dtype);

/** Bytes of a matrix [out, in] in panels, and of scales that are an array of
 * their own (0 if there are none). out and in are at most 2^24, or the result
 * means nothing. */
COTERIE_API uint64_t coterie_panels_size(uint32_t dtype, uint32_t out,
                                         uint32_t in);
COTERIE_API uint64_t coterie_panels_scales_size(uint32_t dtype, uint32_t out,
                                                uint32_t in);

/** Bytes of a panel before its vector `step` of weights, and before the scales
 * of a group; the latter for dtypes with bundles alone. */
COTERIE_API uint64_t coterie_panels_weights_at(uint32_t dtype, uint32_t step);
COTERIE_API uint64_t coterie_panels_scales_at(uint32_t dtype, uint32_t group);

/** Puts a row-major matrix into panels.
 * @param codes   [out, in]: elements of 4 or 2 bytes, or codes of one byte
 *                each, for 4-bit dtypes as well
 * @param scales  of groups, for dtypes with bundles: [out, in / 32] f16, or
 *                e8m0 for MXFP4; [out, in / 32, 2] f16, scale and minimum, for
 *                INT4_ZERO; else unused
 * @param panels  coterie_panels_size bytes */
COTERIE_API void coterie_panels_pack(uint32_t dtype, uint32_t out, uint32_t in,
                                     const void *codes, const void *scales,
                                     void *panels);

/** Rows grouped by expert: pair i of expert e (first[e] <= i < first[e + 1])
 * is row row[i] with weight weight[i]. Rows within an expert ascend. */
typedef struct coterie_expert_rows {
    uint32_t expert_count;
    uint32_t row_count;    /**< rows of x and of sums */
    const uint32_t *first; /**< [expert_count + 1] */
    const uint32_t *row;   /**< [first[expert_count]] */
    const float *weight;   /**< the same length */
} coterie_expert_rows_t;

/** One expert's matrices in panels, borrowed. Without a gate it is a plain FFN:
 * up takes the gate's place in the activation, and 1 that of up. */
typedef struct coterie_expert_weights {
    const void *gate; /**< [ffn, hidden] */
    const void *up;   /**< [ffn, hidden] */
    const void *down; /**< [hidden, ffn] */
    /** Scales apart from panels; NULL: there are none. */
    const void *gate_scale, *up_scale, *down_scale;
    const float *gate_bias, *up_bias; /**< [ffn], or NULL */
    const float *down_bias;           /**< [hidden], or NULL */
} coterie_expert_weights_t;

/** The arguments of a computation: see coterie_expert_ffn. */
typedef struct coterie_ffn_call {
    const coterie_ffn_shape_t *shape;
    const coterie_expert_weights_t *experts;
    const coterie_expert_rows_t *rows;
    const float *x;
    float *sums;
    void *scratch;
} coterie_ffn_call_t;

/** Whether there are kernels for a shape, on any instruction set.
 * @return ERR_UNSUPPORTED and a line that says what would do */
COTERIE_API coterie_status_t coterie_ffn_supported(
    const coterie_ffn_shape_t *shape);

/** Bytes of scratch that coterie_expert_ffn needs for this shape. */
COTERIE_API size_t coterie_expert_ffn_scratch(const coterie_ffn_shape_t *shape);

/** sums[row] += weight * down(activation(gate x, up x)), for every pair,
 * experts ascending, so that a row's sum has one order.
 *
 * @param shape    one that coterie_ffn_supported accepts
 * @param experts  [rows->expert_count]; those without rows are not touched
 * @param x        [row_count, hidden], row-major f32
 * @param sums     likewise
 * @param scratch  coterie_expert_ffn_scratch bytes, one a thread */
COTERIE_API void coterie_expert_ffn(const coterie_ffn_shape_t *shape,
                                    const coterie_expert_weights_t *experts,
                                    const coterie_expert_rows_t *rows,
                                    const float *x, float *sums,
                                    void *scratch);

#ifdef __cplusplus
}
#endif
#endif
