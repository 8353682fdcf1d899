#ifndef COTERIE_EXPERTS_ROPE_H
#define COTERIE_EXPERTS_ROPE_H
/* Rotary positions in config.json. */
#include <coterie/model.h>

#include "experts/configkeys.h"

/* Reads rope_theta and rope_scaling as transformers 4 writes them, or
 * rope_parameters as transformers 5 does; config->arch is set already. */
void coterie_rope_read(coterie_keys_t *keys, coterie_model_config_t *config);

#endif
