#ifndef COTERIE_BASE_NPY_H
#define COTERIE_BASE_NPY_H
/* NumPy's .npy: one array of little-endian numbers in C order. Objects,
 * structures, big-endian and Fortran order are refused, with the reason. */
#include <coterie/status.h>

enum { COTERIE_NPY_NDIM_MAX = 4 };
enum { COTERIE_NPY_HEADER_MAX = 256 };

typedef struct coterie_npy {
    char kind;          /* 'i', 'u' or 'f' */
    uint32_t item_size; /* 1, 2, 4, 8 */
    uint32_t ndim;      /* 0: a scalar */
    uint64_t shape[COTERIE_NPY_NDIM_MAX];
    uint64_t count; /* elements */
    const unsigned char *data;
    void *buffer; /* what release frees; NULL where data is borrowed */
} coterie_npy_t;

/* Checks the bytes of a whole .npy; on success npy->data points into them.
 * `name` is for the error line. */
coterie_status_t coterie_npy_parse(const char *name, const void *bytes,
                                   size_t size, coterie_npy_t *npy);

/* Reads and parses a file; npy owns what it read. */
coterie_status_t coterie_npy_read(const char *path, coterie_npy_t *npy);

/* Describes an array of ours that is not empty: `type` as in "i2", a 0 ends
 * its shape. */
coterie_npy_t coterie_npy_describe(const char *type, const uint64_t *shape,
                                   const void *data);

/* Writes the header that goes before the data; returns its size. */
size_t coterie_npy_header(const coterie_npy_t *npy,
                          char header[COTERIE_NPY_HEADER_MAX]);

/* The element at `index`. An unsigned one beyond INT64_MAX reads as that. */
int64_t coterie_npy_integer(const coterie_npy_t *npy, uint64_t index);

/* The element at `index`, whatever its type. */
double coterie_npy_number(const coterie_npy_t *npy, uint64_t index);

/* Accepts a zeroed one. */
void coterie_npy_release(coterie_npy_t *npy);

#endif
