#ifndef COTERIE_WIRE_H
#define COTERIE_WIRE_H
/** @file
 * Rows between tensors and messages: gathered for a destination, scattered
 * from a message, added up. Sessions use these; so can an engine with a
 * transport of its own. None allocates; any thread. Tensors are f32 and
 * row-major; rows in messages begin at a multiple of 4 bytes. Every
 * instruction set gives the same bits. */
#include <coterie/api.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Rows of a tensor, and how they lie in a message. */
typedef struct coterie_wire_rows {
    uint32_t wire;       /**< coterie_wire_t, taken as it is: in int8 all */
    uint32_t width;      /**< elements of a row */
    uint32_t count;
    uint32_t reserved;   /**< zero */
    const uint32_t *row; /**< [count] rows of the tensor; NULL: 0, 1, ... */
    size_t stride;       /**< bytes from row to row in the message */
} coterie_wire_rows_t;

/** Bytes of one row's values in a message, a multiple of 4.
 * bf16: rounded to the nearest, ties to even. int8: f32 scales, one for each
 * 128 elements (their largest magnitude / 127), then the values; an infinity
 * or NaN makes its 128 NaN, and magnitudes below 1e-30 become 0. */
COTERIE_API size_t coterie_wire_size(coterie_wire_t wire, uint32_t width);

/** Message row i = x[row[i]]. What does not fit the caches goes past them. */
COTERIE_API void coterie_wire_pack(const coterie_wire_rows_t *rows,
                                   const float *x, void *message);

/** x[row[i]] = message row i. */
COTERIE_API void coterie_wire_unpack(const coterie_wire_rows_t *rows,
                                     const void *message, float *x);

/** One addend of a sum. */
typedef struct coterie_wire_part {
    const void *values; /**< a row in a message, or of a tensor */
    uint32_t wire;      /**< F32, a tensor's too, or BF16 */
    float weight;       /**< 1: added as it is */
} coterie_wire_part_t;

/** sum[width] = weight[0] * part 0 + weight[1] * part 1 + ..., in that order,
 * in one pass. The first part may be `sum` itself, its weight not used; no
 * other may overlap it. No parts: 0. */
COTERIE_API void coterie_wire_sum(uint32_t width, uint32_t count,
                                  const coterie_wire_part_t *parts,
                                  float *sum);

#ifdef __cplusplus
}
#endif
#endif
