#ifndef COTERIE_TOOLS_NPY_H
#define COTERIE_TOOLS_NPY_H
#include <coterie/coterie.h>

/* Writes f32 [rows, columns] as a NumPy file, whole or not at all. */
coterie_status_t npy_write(const char *path, uint64_t rows, uint64_t columns,
                           const float *data);

#endif
