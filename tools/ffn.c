#include "config.h"

#include <math.h>

#include "tools/ffn.h"
#include "tools/vector.h"

static float sigmoid(float x);

void ffn_add(const ffn_weights_t *ffn, uint32_t hidden, const float *row_gate,
             const float *x, uint32_t count, float *scratch, float *sums)
{
    size_t inner = (size_t)count * ffn->width;
    float *gate = scratch, *up = gate + inner, *out = up + inner;

    coterie_linear(count, hidden, ffn->width, x, ffn->gate, COTERIE_DTYPE_F32,
                   NULL, gate);
    coterie_linear(count, hidden, ffn->width, x, ffn->up, COTERIE_DTYPE_F32,
                   NULL, up);
    for (size_t i = 0; i < inner; i++) /* silu(gate) * up */
        gate[i] *= sigmoid(gate[i]) * up[i];
    coterie_linear(count, ffn->width, hidden, gate, ffn->down,
                   COTERIE_DTYPE_F32, NULL, out);
    for (uint32_t row = 0; row < count; row++) {
        size_t at = (size_t)row * hidden;
        float scale = 1;
        if (row_gate != NULL)
            scale = sigmoid(dot(hidden, row_gate, x + at));
        add_scaled(hidden, scale, out + at, sums + at);
    }
}

static float sigmoid(float x)
{
    return 1 / (1 + expf(-x));
}
