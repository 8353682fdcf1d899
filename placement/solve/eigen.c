#include "config.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/solve/eigen.h"
#include "placement/solve/machine.h"

enum { LANES = COTERIE_EIGEN_ALIGN / sizeof(float), TURNS_MOST = 60 };

/* Rows are whole numbers of these; the compiler makes of them what the machine
 * has. */
typedef float lanes_t __attribute__((vector_size(LANES * sizeof(float))));

static void mirror_make(coterie_eigen_t *eigen, uint32_t step);
static void matrix_image(coterie_eigen_t *eigen, uint32_t step);
static void matrix_mirror(coterie_eigen_t *eigen, uint32_t step);
static void tridiagonal_solve(coterie_eigen_t *eigen);
static uint32_t block_end(const coterie_eigen_t *eigen, uint32_t first);
static void block_turn(coterie_eigen_t *eigen, uint32_t first, uint32_t last);
static void rows_turn(coterie_eigen_t *eigen, uint32_t first, uint32_t last);
static void vector_return(const coterie_eigen_t *eigen, float *vector);
static void outer_add(const coterie_eigen_t *eigen, const float *vector,
                      float value, float *positive);

coterie_status_t coterie_eigen_open(coterie_eigen_t *eigen, uint32_t count)
{
    size_t stride = (count + LANES - 1) / LANES * LANES;
    size_t cells = count * stride;

    *eigen = (coterie_eigen_t){.count = count, .stride = stride};
    eigen->matrix = aligned_alloc(COTERIE_EIGEN_ALIGN,
                                  (2 * cells + 4 * stride) * sizeof(float));
    eigen->diagonal = calloc(2 * (size_t)count + 1, sizeof(double));
    if (eigen->matrix == NULL || eigen->diagonal == NULL)
        return coterie_fail_memory(2 * cells * sizeof(float), "eigenvectors");
    memset(eigen->matrix, 0, (2 * cells + 4 * stride) * sizeof(float));
    eigen->vectors = eigen->matrix + cells;
    eigen->mirror = eigen->vectors + cells;
    eigen->image = eigen->mirror + stride;
    eigen->cosine = eigen->image + stride;
    eigen->sine = eigen->cosine + stride;
    eigen->beside = eigen->diagonal + count;
    return COTERIE_OK;
}

void coterie_eigen_positive(coterie_eigen_t *eigen, float *positive)
{
    size_t stride = eigen->stride;

    for (uint32_t step = 0; step + 1 < eigen->count; step++) {
        mirror_make(eigen, step);
        if (eigen->mirror[step + 1] == 0)
            continue; /* nothing left of the row but its neighbour */
        matrix_image(eigen, step);
        matrix_mirror(eigen, step);
    }
    eigen->diagonal[eigen->count - 1] =
        eigen->matrix[(eigen->count - 1) * stride + eigen->count - 1];
    tridiagonal_solve(eigen);
    memset(positive, 0, eigen->count * stride * sizeof(*positive));
    for (uint32_t i = 0; i < eigen->count; i++) {
        if (eigen->diagonal[i] <= 0)
            continue;
        vector_return(eigen, eigen->vectors + i * stride);
        outer_add(eigen, eigen->vectors + i * stride, eigen->diagonal[i],
                  positive);
    }
}

void coterie_eigen_close(coterie_eigen_t *eigen)
{
    free(eigen->matrix);
    free(eigen->diagonal);
}

int coterie_eigen_is_positive(double *matrix, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        double *row = matrix + (size_t)i * count;
        for (uint32_t j = 0; j <= i; j++) {
            const double *other = matrix + (size_t)j * count;
            double rest = row[j];
            for (uint32_t k = 0; k < j; k++)
                rest -= row[k] * other[k];
            if (j < i)
                row[j] = rest / other[j];
            else if (rest > 0)
                row[j] = sqrt(rest);
            else
                return 0;
        }
    }
    return 1;
}

/* The mirror (Householder) that leaves of a row, beyond the diagonal, its first
 * entry only: kept there as a vector of length sqrt(2); zero if nothing is to
 * be mirrored. */
static void mirror_make(coterie_eigen_t *eigen, uint32_t step)
{
    float *row = eigen->matrix + (size_t)step * eigen->stride;
    double length = 0, first = row[step + 1], scale;

    for (uint32_t i = step + 1; i < eigen->count; i++)
        length += (double)row[i] * row[i];
    length = sqrt(length);
    eigen->diagonal[step] = row[step];
    eigen->beside[step] = first > 0 ? -length : length;
    memset(eigen->mirror, 0, eigen->stride * sizeof(*eigen->mirror));
    if (length > 0) {
        /* |row - beside|^2 = 2 length (length + |first|) */
        scale = 1 / sqrt(length * (length + fabs(first)));
        for (uint32_t i = step + 1; i < eigen->count; i++)
            eigen->mirror[i] = row[i] * scale;
        eigen->mirror[step + 1] = (first - eigen->beside[step]) * scale;
    }
    memcpy(row, eigen->mirror, eigen->stride * sizeof(*row));
}

/* image = matrix x mirror, less the part along the mirror that the other side
 * takes away too. */
EACH_MACHINE
static void matrix_image(coterie_eigen_t *eigen, uint32_t step)
{
    uint32_t from = (step + 1) / LANES, to = eigen->stride / LANES;
    const lanes_t *mirror = (const lanes_t *)eigen->mirror;
    float along = 0;

    memset(eigen->image, 0, eigen->stride * sizeof(*eigen->image));
    for (uint32_t i = step + 1; i < eigen->count; i++) {
        const lanes_t *row =
            (const lanes_t *)(eigen->matrix + (size_t)i * eigen->stride);
        lanes_t sum = {0};
        float all = 0;
        for (uint32_t j = from; j < to; j++)
            sum += row[j] * mirror[j];
        for (uint32_t j = 0; j < LANES; j++)
            all += sum[j];
        eigen->image[i] = all;
        along += all * eigen->mirror[i];
    }
    for (uint32_t i = step + 1; i < eigen->count; i++)
        eigen->image[i] -= along / 2 * eigen->mirror[i];
}

EACH_MACHINE
static void matrix_mirror(coterie_eigen_t *eigen, uint32_t step)
{
    uint32_t from = (step + 1) / LANES, to = eigen->stride / LANES;
    const lanes_t *mirror = (const lanes_t *)eigen->mirror;
    const lanes_t *image = (const lanes_t *)eigen->image;

    for (uint32_t i = step + 1; i < eigen->count; i++) {
        lanes_t *row = (lanes_t *)(eigen->matrix + (size_t)i * eigen->stride);
        float x = eigen->mirror[i], y = eigen->image[i];
        for (uint32_t j = from; j < to; j++)
            row[j] -= mirror[j] * y + image[j] * x;
    }
}

/* Leaves eigenvalues on the diagonal and eigenvectors in rows. */
static void tridiagonal_solve(coterie_eigen_t *eigen)
{
    uint32_t count = eigen->count;

    memset(eigen->vectors, 0,
           (size_t)count * eigen->stride * sizeof(*eigen->vectors));
    for (uint32_t i = 0; i < count; i++)
        eigen->vectors[(size_t)i * eigen->stride + i] = 1;
    for (uint32_t first = 0; first < count; first++)
        for (uint32_t turns = 0; turns < TURNS_MOST; turns++) {
            uint32_t last = block_end(eigen, first);
            if (last == first)
                break;
            block_turn(eigen, first, last);
        }
}

/* The block that begins here ends before the first entry beside the diagonal
 * that is lost in single precision. */
static uint32_t block_end(const coterie_eigen_t *eigen, uint32_t first)
{
    uint32_t last = first;

    while (last + 1 < eigen->count &&
           fabs(eigen->beside[last]) >
               FLT_EPSILON * (fabs(eigen->diagonal[last]) +
                              fabs(eigen->diagonal[last + 1])))
        last++;
    return last;
}

/* One turn of QL with an implicit shift: a rotation at the block's end is
 * chased to its beginning. */
static void block_turn(coterie_eigen_t *eigen, uint32_t first, uint32_t last)
{
    double *d = eigen->diagonal, *e = eigen->beside;
    double half = (d[first + 1] - d[first]) / (2 * e[first]);
    double root = sqrt(half * half + 1);
    double chased = d[last] - d[first] +
                    e[first] / (half + copysign(root, half));
    double sine = 1, cosine = 1, shift = 0;

    for (uint32_t i = last; i-- > first;) {
        double out = sine * e[i], kept = cosine * e[i], turned;
        double length = sqrt(out * out + chased * chased);
        if (length == 0)
            length = DBL_MIN;
        e[i + 1] = length;
        sine = out / length;
        cosine = chased / length;
        chased = d[i + 1] - shift;
        turned = (d[i] - chased) * sine + 2 * cosine * kept;
        shift = sine * turned;
        d[i + 1] = chased + shift;
        chased = cosine * turned - kept;
        eigen->sine[i] = sine;
        eigen->cosine[i] = cosine;
    }
    d[first] -= shift;
    e[first] = chased;
    e[last] = 0;
    rows_turn(eigen, first, last);
}

/* A strip of all rows at a time, so that each row is read and written once. */
EACH_MACHINE
static void rows_turn(coterie_eigen_t *eigen, uint32_t first, uint32_t last)
{
    size_t lanes = eigen->stride / LANES;

    for (size_t strip = 0; strip < lanes; strip++) {
        lanes_t *row = (lanes_t *)eigen->vectors + strip;
        lanes_t carried = row[last * lanes];
        for (uint32_t i = last; i-- > first;) {
            lanes_t here = row[i * lanes];
            row[(i + 1) * lanes] =
                here * eigen->sine[i] + carried * eigen->cosine[i];
            carried = here * eigen->cosine[i] - carried * eigen->sine[i];
        }
        row[first * lanes] = carried;
    }
}

/* From the tridiagonal form's vector to the matrix's: all mirrors, the last
 * first. */
EACH_MACHINE
static void vector_return(const coterie_eigen_t *eigen, float *vector)
{
    lanes_t *x = (lanes_t *)vector;
    uint32_t to = eigen->stride / LANES;

    for (uint32_t step = eigen->count - 1; step-- > 0;) {
        const lanes_t *mirror =
            (const lanes_t *)(eigen->matrix + (size_t)step * eigen->stride);
        uint32_t from = (step + 1) / LANES;
        lanes_t sum = {0};
        float all = 0;
        for (uint32_t j = from; j < to; j++)
            sum += mirror[j] * x[j];
        for (uint32_t j = 0; j < LANES; j++)
            all += sum[j];
        for (uint32_t j = from; j < to; j++)
            x[j] -= mirror[j] * all;
    }
}

EACH_MACHINE
static void outer_add(const coterie_eigen_t *eigen, const float *vector,
                      float value, float *positive)
{
    const lanes_t *x = (const lanes_t *)vector;
    uint32_t to = eigen->stride / LANES;

    for (uint32_t i = 0; i < eigen->count; i++) {
        lanes_t *row = (lanes_t *)(positive + (size_t)i * eigen->stride);
        float scale = value * vector[i];
        for (uint32_t j = 0; j < to; j++)
            row[j] += x[j] * scale;
    }
}
