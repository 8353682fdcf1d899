#include "config.h"

#include <math.h>
#include <stdlib.h>

#include "base/error.h"
#include "experts/configkeys.h"

/* More than any model has, little enough that products of two sizes and an
 * element's size cannot overflow 64 bits. */
enum { COUNT_MAX = 1 << 24 };

const json_t *coterie_keys_get(const coterie_keys_t *keys, const char *key)
{
    const json_t *value = json_object_get(keys->object, key);

    return json_is_null(value) ? NULL : value;
}

uint32_t coterie_keys_count(coterie_keys_t *keys, const char *key)
{
    uint32_t count = coterie_keys_count_or(keys, key, 0);

    if (count == 0)
        coterie_keys_malformed(keys, key, "is missing or zero");
    return count;
}

uint32_t coterie_keys_count_or(coterie_keys_t *keys, const char *key,
                               uint32_t fallback)
{
    const json_t *value = coterie_keys_get(keys, key);
    json_int_t count = json_integer_value(value);

    if (value == NULL)
        return fallback;
    if (!json_is_integer(value) || count < 0 || count > COUNT_MAX) {
        coterie_keys_malformed(keys, key, "is not an integer from 0 to 2^24");
        return fallback;
    }
    return (uint32_t)count;
}

float coterie_keys_real(coterie_keys_t *keys, const char *key)
{
    if (coterie_keys_get(keys, key) == NULL)
        coterie_keys_malformed(keys, key, "is missing");
    return coterie_keys_real_or(keys, key, 0);
}

float coterie_keys_real_or(coterie_keys_t *keys, const char *key,
                           float fallback)
{
    const json_t *value = coterie_keys_get(keys, key);
    float real = (float)json_number_value(value);

    if (value == NULL)
        return fallback;
    if (!json_is_number(value) || !isfinite(real)) {
        coterie_keys_malformed(keys, key, "is not a number");
        return fallback;
    }
    return real;
}

uint32_t coterie_keys_flag_or(coterie_keys_t *keys, const char *key,
                              uint32_t fallback)
{
    const json_t *value = coterie_keys_get(keys, key);

    if (value == NULL)
        return fallback;
    if (!json_is_boolean(value))
        coterie_keys_malformed(keys, key, "is neither true nor false");
    return json_is_true(value);
}

void coterie_keys_refuse(coterie_keys_t *keys, const char *key,
                         const char *supported)
{
    enum { SHOWN_MAX = 60 };
    char *value;

    if (keys->status != COTERIE_OK)
        return;
    value = json_dumps(coterie_keys_get(keys, key), JSON_ENCODE_ANY);
    keys->status = coterie_fail(
        COTERIE_ERR_UNSUPPORTED, "%s: %s is %.*s; supported: %s", keys->path,
        key, SHOWN_MAX, value != NULL ? value : "absent", supported);
    free(value);
}

void coterie_keys_malformed(coterie_keys_t *keys, const char *key,
                            const char *problem)
{
    if (keys->status == COTERIE_OK)
        keys->status = coterie_fail(COTERIE_ERR_FORMAT, "%s: %s %s",
                                    keys->path, key, problem);
}
