#ifndef COTERIE_EXPERTS_NAMES_H
#define COTERIE_EXPERTS_NAMES_H
/* Which tensors an architecture has, by Hugging Face name, and their shapes:
 * everything the forward pass reads. */
#include "experts/record.h"
#include "experts/shape.h"
#include "experts/tensor.h"

enum { COTERIE_NAME_SIZE = 128 };

/* A tensor that a model must have. */
typedef struct coterie_tensor_spec {
    char name[COTERIE_NAME_SIZE];
    uint32_t rank;
    uint64_t shape[COTERIE_TENSOR_RANK_MAX];
} coterie_tensor_spec_t;

typedef coterie_status_t (*coterie_spec_fn)(void *arg,
                                            const coterie_tensor_spec_t *spec);

/* Calls fn for every tensor that is not a routed expert's, until one fails. */
coterie_status_t coterie_names_dense(const coterie_shape_t *shape,
                                     coterie_spec_fn fn, void *arg);

/* A matrix of a routed expert: part 0 is gate, 1 up, 2 down, as in a record. */
typedef struct coterie_expert_name {
    uint32_t moe_layer, expert, part;
} coterie_expert_name_t;

/* Where a matrix is: in a tensor of its own, or in one [experts, in, outputs]
 * of the whole layer (gpt-oss), gate and up in the same. */
void coterie_names_expert(const coterie_shape_t *shape,
                          const coterie_expert_name_t *name,
                          coterie_tensor_spec_t *spec);

/* DeepSeek-V3's scales of a matrix in fp8, one a block. */
void coterie_names_scale(const coterie_tensor_spec_t *weight,
                         coterie_tensor_spec_t *scale);

/* Finds the tensor. @return ERR_NOT_FOUND, ERR_MISMATCH */
coterie_status_t coterie_names_find(const coterie_tensors_t *tensors,
                                    const char *path,
                                    const coterie_tensor_spec_t *spec,
                                    coterie_tensor_t **tensor_p);

/* Whether a tensor that no table asks for may be left out. */
int coterie_names_ignorable(const coterie_shape_t *shape, const char *name);

#endif
