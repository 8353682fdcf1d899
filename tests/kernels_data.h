#ifndef COTERIE_TESTS_KERNELS_DATA_H
#define COTERIE_TESTS_KERNELS_DATA_H
/* Random data for the kernels' tests, and what it means in double precision. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include <coterie/coterie.h>

typedef struct variant {
    int isa; /* 0 portable, 1 avx2, 2 avx512 */
    coterie_dtype_t dtype;
} variant_t;

/* Every instruction set with every dtype. */
struct criterion_test_params variants_make(void);

/* Every test runs in a process of its own, so each may choose the instruction
 * set anew. Returns whether this processor has it. */
int have_isa(int isa);

/* The same; the test is skipped, and says so, where it is lacking. */
void use_isa(int isa);

uint32_t next_random(uint64_t *seed);
uint32_t below(uint64_t *seed, uint32_t limit);

/* count values in [-1, 1); free() them. */
float *random_floats(uint64_t *seed, size_t count);

/* Weights of any dtype and, beside them, what they mean. They begin at an odd
 * address. */
typedef struct weights {
    unsigned char *bytes;
    const void *data;
    double *value;
} weights_t;

weights_t weights_make(uint64_t *seed, coterie_dtype_t dtype, size_t count);
void weights_set(weights_t *weights, coterie_dtype_t dtype, size_t at,
                 uint32_t bits);
void weights_free(weights_t *weights);

/* How far an f32 sum of `length` products may be off: it rounds at most
 * `length` times however it is ordered; with 16 lanes, a few times its depth,
 * 2^-23 of the terms' magnitudes each, is what to expect. */
double tolerance(uint32_t length, double magnitude);

/* Infinities and NaN must be the same. */
void expect_close(double got, double want, double limit);

#endif
