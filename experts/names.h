#ifndef COTERIE_EXPERTS_NAMES_H
#define COTERIE_EXPERTS_NAMES_H
/* Which tensors an architecture has, by Hugging Face name, and their shapes:
 * everything the forward pass reads. */
#include "experts/shape.h"
#include "experts/tensor.h"

enum { COTERIE_NAME_SIZE = 128, COTERIE_EXPERT_PARTS = 3 };

/* A tensor that a model must have. */
typedef struct coterie_tensor_spec {
    char name[COTERIE_NAME_SIZE];
    uint32_t rank;
    uint64_t shape[2];
} coterie_tensor_spec_t;

typedef coterie_status_t (*coterie_spec_fn)(void *arg,
                                            const coterie_tensor_spec_t *spec);

/* Calls fn for every tensor that is not a routed expert's, until one fails. */
coterie_status_t coterie_names_dense(const coterie_shape_t *shape,
                                     coterie_spec_fn fn, void *arg);

/* Part 0 is gate, 1 up, 2 down, as in an expert's record. */
void coterie_names_expert(const coterie_shape_t *shape, uint32_t moe_layer,
                          uint32_t expert, uint32_t part,
                          coterie_tensor_spec_t *spec);

/* Finds the tensor. @return ERR_NOT_FOUND, ERR_MISMATCH */
coterie_status_t coterie_names_find(const coterie_tensors_t *tensors,
                                    const char *path,
                                    const coterie_tensor_spec_t *spec,
                                    coterie_tensor_t **tensor_p);

/* Whether a tensor that no table asks for may be left out. */
int coterie_names_ignorable(const coterie_shape_t *shape, const char *name);

#endif
