#ifndef COTERIE_EXPERTS_SOURCE_H
#define COTERIE_EXPERTS_SOURCE_H
/* Where a model's weights come from: a Hugging Face directory or a store. */
#include "experts/names.h"

typedef struct coterie_source coterie_source_t;

/* A kind of source is one file that fills this table. No slot is NULL. */
typedef struct coterie_source_ops {
    const char *kind; /* for coterie_model_describe */
    /* Checks that every routed expert is there and fits the shape, which the
     * source keeps borrowing; marks the experts' tensors; fills format. */
    coterie_status_t (*bind)(coterie_source_t *source,
                             const coterie_shape_t *shape,
                             coterie_expert_format_t *format);
    /* Reads a tensor's bytes as they are stored. Any thread. */
    coterie_status_t (*read)(const coterie_source_t *source,
                             const coterie_tensor_t *tensor, void *data);
    /* Reads an expert's record in the bound format. Any thread. */
    coterie_status_t (*expert)(const coterie_source_t *source,
                               uint32_t moe_layer, uint32_t expert,
                               void *record);
    void (*close)(coterie_source_t *source);
} coterie_source_ops_t;

/* The first member of every kind. */
struct coterie_source {
    const coterie_source_ops_t *ops;
    char *path;
    char *config_text; /* config.json's */
    coterie_tensors_t tensors;
};

coterie_status_t coterie_directory_open(const char *path,
                                        coterie_source_t **source_p);

coterie_status_t coterie_store_open(const char *path,
                                    coterie_source_t **source_p);

/* Begins a zeroed source of some kind. */
coterie_status_t coterie_source_init(coterie_source_t *source,
                                     const coterie_source_ops_t *ops,
                                     const char *path);

/* Frees the base's members; for the kinds' own close. */
void coterie_source_clear(coterie_source_t *source);

#endif
