#ifndef COTERIE_PLACEMENT_SOLVE_EIGEN_H
#define COTERIE_PLACEMENT_SOLVE_EIGEN_H
/* The positive part of a symmetric matrix: Householder's tridiagonal form
 * (1958), then QL with implicit shifts (Dubrulle, 1970), in single precision.
 * Callers must stand its rounding. */
#include <coterie/status.h>

enum { COTERIE_EIGEN_ALIGN = 64 }; /* of rows, in bytes */

typedef struct coterie_eigen {
    uint32_t count, stride; /* rows, and floats from one to the next */
    float *matrix;          /* [count, stride]: yours to fill; destroyed */
    float *vectors;         /* [count, stride] */
    float *mirror, *image, *cosine, *sine; /* [stride] */
    double *diagonal, *beside;             /* [count] */
} coterie_eigen_t;

/* Rows are padded, with zeros, to a stride that suits the machine. */
coterie_status_t coterie_eigen_open(coterie_eigen_t *eigen, uint32_t count);

/* Overwrites positive [count, stride], aligned, with the sum of value x vector
 * x vector over the positive eigenvalues. */
void coterie_eigen_positive(coterie_eigen_t *eigen, float *positive);

/* Accepts a zeroed eigen. */
void coterie_eigen_close(coterie_eigen_t *eigen);

/* Has matrix [count, count] of doubles no eigenvalue of 0 or less? By
 * Cholesky's decomposition, which overwrites it. */
int coterie_eigen_is_positive(double *matrix, uint32_t count);

#endif
