#include "config.h"

#include "kernels/cpu/cpu.h"

static void linear_block(const coterie_product_t *product, const float *bias);

void coterie_linear(uint32_t n, uint32_t in, uint32_t out, const float *x,
                    const void *weight, coterie_dtype_t weight_dtype,
                    const float *bias, float *y)
{
    const float *rows[COTERIE_ROW_BLOCK];
    coterie_product_t product = {
        .in = in,
        .out = out,
        .dtype = weight_dtype,
        .x = rows,
        .weight = weight,
        .weight_stride = in * coterie_dtype_size(weight_dtype),
        .y_stride = out,
    };

    for (uint32_t first = 0; first < n; first += product.rows) {
        const uint32_t left = n - first;
        product.rows = left < COTERIE_ROW_BLOCK ? left : COTERIE_ROW_BLOCK;
        for (uint32_t row = 0; row < product.rows; row++)
            rows[row] = x + (size_t)(first + row) * in;
        product.y = y + (size_t)first * out;
        linear_block(&product, bias);
    }
}

static void linear_block(const coterie_product_t *product, const float *bias)
{
    coterie_cpu_product(coterie_cpu_ops(), product);
    if (bias == NULL)
        return;
    for (uint32_t row = 0; row < product->rows; row++)
        for (uint32_t o = 0; o < product->out; o++)
            product->y[row * product->y_stride + o] += bias[o];
}

void coterie_rms_norm(uint32_t n, uint32_t width, float eps, const float *x,
                      const float *weight, float *y)
{
    const coterie_cpu_ops_t *ops = coterie_cpu_ops();

    for (size_t row = 0; row < n; row++)
        ops->rms_norm(width, eps, x + row * width, weight, y + row * width);
}
