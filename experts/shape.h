#ifndef COTERIE_EXPERTS_SHAPE_H
#define COTERIE_EXPERTS_SHAPE_H
/* config.json of any supported architecture, in one vocabulary. */
#include <coterie/model.h>

/* A model's config, and which of its layers have experts. */
typedef struct coterie_shape {
    coterie_model_config_t config;
    uint32_t *layer_of;     /* [moe_layers] */
    uint32_t *moe_layer_of; /* [layers]; COTERIE_NO_LAYER where dense */
    uint32_t *window_of;    /* [layers]: positions seen; 0 = all */
} coterie_shape_t;

/* Reads config.json's text; what the forward pass would get wrong is refused
 * by name. `path` names the file in errors.
 * @return ERR_FORMAT, ERR_UNSUPPORTED */
coterie_status_t coterie_shape_read(const char *text, const char *path,
                                    coterie_shape_t *shape_p);

/* As config.json's model_type spells it. */
const char *coterie_arch_name(uint32_t arch);

void coterie_shape_clear(coterie_shape_t *shape);

#endif
