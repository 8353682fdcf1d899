#ifndef COTERIE_EXPERTS_MATRIX_H
#define COTERIE_EXPERTS_MATRIX_H
/* Routed experts' matrices as checkpoints have them: a tensor each, or those
 * of a layer's experts in one; quantised or not. */
#include "experts/datafile.h"
#include "experts/names.h"
#include "experts/record.h"

/* One matrix [out, in] of an expert. */
typedef struct coterie_matrix {
    coterie_tensor_t *weight, *scale, *bias; /* the last two: NULL if none */
    uint32_t dtype; /* coterie_dtype_t that weight and scale make */
    uint32_t out, in;
    uint32_t slice, slices; /* of the tensors' first extent; 0 of 1: all */
    uint32_t first, step;   /* its rows among the slice's: gate and up may
                             * take turns */
    uint32_t rows;          /* the slice's */
    uint32_t columns;       /* 1: rows and columns are exchanged */
} coterie_matrix_t;

/* Finds a matrix's tensors and checks their shapes.
 * @return ERR_NOT_FOUND, ERR_MISMATCH, ERR_UNSUPPORTED (dtype) */
coterie_status_t coterie_matrix_find(const coterie_tensors_t *tensors,
                                     const char *path,
                                     const coterie_shape_t *shape,
                                     const coterie_expert_name_t *name,
                                     coterie_matrix_t *matrix_p);

/* Reads it into its place in a record that is zeros, bit for bit: biases
 * become f32. */
coterie_status_t coterie_matrix_read(const coterie_matrix_t *matrix,
                                     const coterie_datafile_t *files,
                                     const coterie_expert_format_t *format,
                                     uint32_t part, void *record);

#endif
