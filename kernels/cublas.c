/* Row-major products in terms of cuBLAS, which takes columns: the rows of x and
 * y are columns to it, and a is transposed. */
#include "config.h"

#include "kernels/cublas.h"

enum {
    AT_ONCE = 256, /* groups of one call */
    /* Of library_types.h and cublas_api.h. */
    BF16 = 14,
    PLAIN = 0,
    TRANSPOSED = 1,
    SUMS_F32 = 68,
    ANY_ALGORITHM = -1
};

static int slice(const coterie_cublas_calls_t *calls, void *handle,
                 const coterie_products_t *p, uint32_t first, uint32_t count);
static int one_by_one(const coterie_cublas_calls_t *calls, void *handle,
                      const coterie_products_t *p);

int coterie_cublas_products(const coterie_cublas_calls_t *calls, void *handle,
                            const coterie_products_t *p)
{
    int error = 0;

    if (calls->grouped == NULL)
        return one_by_one(calls, handle, p);
    for (uint32_t from = 0; error == 0 && from < p->count; from += AT_ONCE)
        error = slice(calls, handle, p, from,
                      p->count - from < AT_ONCE ? p->count - from : AT_ONCE);
    return error;
}

static int slice(const coterie_cublas_calls_t *calls, void *handle,
                 const coterie_products_t *p, uint32_t first, uint32_t count)
{
    int op_a[AT_ONCE], op_b[AT_ONCE], m[AT_ONCE], n[AT_ONCE], k[AT_ONCE];
    int stride[AT_ONCE], size[AT_ONCE];
    float alpha[AT_ONCE], beta[AT_ONCE];
    const size_t at = (size_t)first * p->each;

    for (uint32_t i = 0; i < count; i++) {
        op_a[i] = TRANSPOSED;
        op_b[i] = PLAIN;
        m[i] = (int)p->out;
        n[i] = (int)p->rows[first + i];
        k[i] = (int)p->in;
        stride[i] = (int)p->stride;
        size[i] = (int)p->each;
        alpha[i] = 1;
        beta[i] = 0;
    }
    return calls->grouped(handle, op_a, op_b, m, n, k, alpha, p->a + at, BF16,
                          k, p->x + at, BF16, k, beta, p->y + at, BF16, stride,
                          (int)count, size, SUMS_F32);
}

/* A batch has one size, so every group is one. */
static int one_by_one(const coterie_cublas_calls_t *calls, void *handle,
                      const coterie_products_t *p)
{
    const float one = 1, zero = 0;
    const int in = (int)p->in;
    int error = 0;

    for (uint32_t i = 0; error == 0 && i < p->count; i++) {
        const size_t at = (size_t)i * p->each;

        error = calls->batched(handle, TRANSPOSED, PLAIN, (int)p->out,
                               (int)p->rows[i], in, &one, p->a + at, BF16, in,
                               p->x + at, BF16, in, &zero, p->y + at, BF16,
                               (int)p->stride, (int)p->each, SUMS_F32,
                               ANY_ALGORITHM);
    }
    return error;
}
