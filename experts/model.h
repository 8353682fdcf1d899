#ifndef COTERIE_EXPERTS_MODEL_H
#define COTERIE_EXPERTS_MODEL_H
/* Inside a model handle; for the store's writer. */
#include "experts/source.h"

struct coterie_model {
    coterie_source_t *source;
    coterie_shape_t shape;
    coterie_expert_format_t format;
};

#endif
