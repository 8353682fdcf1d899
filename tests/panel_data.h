#ifndef COTERIE_TESTS_PANEL_DATA_H
#define COTERIE_TESTS_PANEL_DATA_H
/* Random matrices in panels, of every dtype, and what they mean. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include <coterie/coterie.h>

#include "kernels/cpu/panel.h"

typedef struct panel_variant {
    int isa;
    coterie_dtype_t dtype;
} panel_variant_t;

/* Every instruction set with every dtype. */
struct criterion_test_params panel_variants_make(void);

/* Skips the test, aloud, where the processor lacks the instruction set. */
void use_panel_isa(int isa);
const char *panel_isa_name(int isa); /* NULL after the last */

/* Weights and scales are at odd addresses. */
typedef struct matrix {
    coterie_dtype_t dtype;
    uint32_t out, in;
    char *memory;
    const void *panels, *scales; /* scales may be NULL */
    double *value;               /* [out, in] */
} matrix_t;

/* Special: some values are zero, denormal, infinite or not a number, as far as
 * the dtype has them. */
matrix_t matrix_make(uint64_t *seed, coterie_dtype_t dtype, uint32_t out,
                     uint32_t in, int special);
void matrix_free(matrix_t *matrix);

/* What a row of x means to a compute mode. */
void row_round(coterie_compute_t compute, uint32_t in, const float *x,
               double *rounded);

/* Into y [rows, outputs in whole panels]. */
void matrix_multiply(const matrix_t *matrix,
                     const coterie_panel_method_t *method, uint32_t rows,
                     const float *x, float *y);

/* That it is what double precision gives, within the tolerance. */
void expect_matrix_product(const matrix_t *matrix,
                           const coterie_panel_method_t *method, uint32_t rows,
                           const float *x);

int compute_exists(coterie_dtype_t dtype, coterie_compute_t compute);

/* The inner dimension nearest to `in` that the dtype may have. */
uint32_t inner_of(coterie_dtype_t dtype, uint32_t in);

#endif
