#ifndef COTERIE_API_H
#define COTERIE_API_H
/** @file
 * Symbol visibility; limits and enumerations that several headers share. */
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define COTERIE_API __attribute__((visibility("default")))
#else
#define COTERIE_API
#endif

/** Most experts a token may choose at one layer. */
#define COTERIE_K_MAX 16

/** Element types, of files and of tensors; those from INT8 on are of experts'
 * weights only. Values are ABI. */
typedef enum coterie_dtype {
    COTERIE_DTYPE_F32 = 1,
    COTERIE_DTYPE_F16 = 2,
    COTERIE_DTYPE_BF16 = 3,
    COTERIE_DTYPE_INT8 = 4,       /**< an f32 scale for each output */
    COTERIE_DTYPE_INT8_GROUP = 5, /**< an f16 scale for 32 (gguf q8_0) */
    COTERIE_DTYPE_INT4 = 6,       /**< the same (gguf q4_0) */
    COTERIE_DTYPE_INT4_ZERO = 7,  /**< and an f16 minimum (gguf q4_1) */
    COTERIE_DTYPE_FP8 = 8,        /**< e4m3fn, an f32 scale for 128 x 128 */
    COTERIE_DTYPE_MXFP4 = 9       /**< e2m1, an e8m0 scale for 32 (OCP) */
} coterie_dtype_t;

/** What hidden vectors are between ranks. Values are ABI. */
typedef enum coterie_wire {
    COTERIE_WIRE_F32 = 0,
    COTERIE_WIRE_BF16 = 1, /**< everything rounded to bf16 */
    /** Experts' inputs in 8 bits, with an f32 scale for each 128 of them; raw
     * hidden states and partial sums in bf16. */
    COTERIE_WIRE_INT8 = 2
} coterie_wire_t;

/** How a step moves tokens between ranks. Values are ABI. */
typedef enum coterie_mode {
    COTERIE_MODE_AUTO = 0,
    COTERIE_MODE_TWO_PHASE = 1, /**< tokens stay at home; dispatch, return */
    COTERIE_MODE_OWNER = 2,     /**< a token moves to one of its experts */
    COTERIE_MODE_FORWARD = 3    /**< partial sums go straight to the next */
} coterie_mode_t;

/** What a step does. Values are ABI, and are stored in traces. */
typedef enum coterie_phase {
    COTERIE_PHASE_PREFILL = 0,
    COTERIE_PHASE_DECODE = 1
} coterie_phase_t;

/** Which ranks share attention's cache, so that a token may move there. */
typedef enum coterie_group {
    COTERIE_GROUP_ALL = 0,  /**< every rank */
    COTERIE_GROUP_NODE = 1, /**< the ranks of the home rank's node */
    COTERIE_GROUP_NONE = 2, /**< nobody: tokens stay at home (two-phase) */
    /** One rank in each node, at the home rank's place in its node; forward
     * then treats nodes as ranks: one exchange between nodes a layer. */
    COTERIE_GROUP_ACROSS = 3
} coterie_group_t;

#endif
