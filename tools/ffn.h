#ifndef COTERIE_TOOLS_FFN_H
#define COTERIE_TOOLS_FFN_H
/* Blocks that every token passes: shared experts and layers without experts. */
#include "tools/weights.h"

/* sums[count, hidden] += down(silu(gate x) * up x), times sigmoid(row_gate x)
 * where there is such a gate (Qwen2's shared expert).
 *
 * @param scratch  [2 count ffn->width + count hidden] */
void ffn_add(const ffn_weights_t *ffn, uint32_t hidden, const float *row_gate,
             const float *x, uint32_t count, float *scratch, float *sums);

#endif
