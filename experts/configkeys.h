#ifndef COTERIE_EXPERTS_CONFIGKEYS_H
#define COTERIE_EXPERTS_CONFIGKEYS_H
/* Typed reading of a JSON object's keys, where the first failure sticks, so
 * that a caller reads all it wants and looks at the status once. */
#include <jansson.h>

#include <coterie/status.h>

typedef struct coterie_keys {
    const json_t *object;
    const char *path; /* of the file, for errors */
    coterie_status_t status;
} coterie_keys_t;

/* NULL if absent or null, which config files use alike. */
const json_t *coterie_keys_get(const coterie_keys_t *keys, const char *key);

/* A size of at least 1. ERR_FORMAT if it is absent. */
uint32_t coterie_keys_count(coterie_keys_t *keys, const char *key);

/* A size, or the fallback if absent. */
uint32_t coterie_keys_count_or(coterie_keys_t *keys, const char *key,
                               uint32_t fallback);

float coterie_keys_real(coterie_keys_t *keys, const char *key);
float coterie_keys_real_or(coterie_keys_t *keys, const char *key,
                           float fallback);
uint32_t coterie_keys_flag_or(coterie_keys_t *keys, const char *key,
                              uint32_t fallback);

/* Records ERR_UNSUPPORTED, unless something failed before: names the key, its
 * value and what would be right. */
void coterie_keys_refuse(coterie_keys_t *keys, const char *key,
                         const char *supported);

/* Records ERR_FORMAT in the same way: "<key> <problem>". */
void coterie_keys_malformed(coterie_keys_t *keys, const char *key,
                            const char *problem);

#endif
