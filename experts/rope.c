#include "config.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "experts/rope.h"

static int may_have_yarn(uint32_t arch);
static void refuse_partial(coterie_keys_t *keys);
static const char *scaling_type(const coterie_keys_t *scaling);
static void yarn_read(coterie_keys_t *scaling, coterie_model_config_t *config);
static void refuse_unknown(coterie_keys_t *scaling);

void coterie_rope_read(coterie_keys_t *keys, coterie_model_config_t *config)
{
    const char *key = coterie_keys_get(keys, "rope_parameters") != NULL
                          ? "rope_parameters"
                          : "rope_scaling";
    char path[512];
    /* Its failures say which object the key stands in. */
    coterie_keys_t scaling = {coterie_keys_get(keys, key), path, keys->status};
    const char *type;

    snprintf(path, sizeof(path), "%s: %s", keys->path, key);
    if (coterie_keys_get(&scaling, "rope_theta") != NULL)
        config->rope_theta = coterie_keys_real(&scaling, "rope_theta");
    else
        config->rope_theta = coterie_keys_real(keys, "rope_theta");
    refuse_partial(keys);
    refuse_partial(&scaling);
    type = scaling_type(&scaling);
    if (strcmp(type, "yarn") == 0 && may_have_yarn(config->arch))
        yarn_read(&scaling, config);
    else if (strcmp(type, "default") != 0)
        coterie_keys_refuse(keys, key,
                            "the default type, and yarn for deepseek_v2, "
                            "deepseek_v3 and gpt_oss");
    if (keys->status == COTERIE_OK)
        keys->status = scaling.status;
    if (!(config->rope_theta > 0))
        coterie_keys_malformed(keys, "rope_theta", "is not positive");
}

static int may_have_yarn(uint32_t arch)
{
    return arch == COTERIE_ARCH_DEEPSEEK_V2 ||
           arch == COTERIE_ARCH_DEEPSEEK_V3 || arch == COTERIE_ARCH_GPT_OSS;
}

static void refuse_partial(coterie_keys_t *keys)
{
    if (coterie_keys_real_or(keys, "partial_rotary_factor", 1) != 1)
        coterie_keys_refuse(keys, "partial_rotary_factor", "1");
}

/* No object at all means plain positions; an object without a type does not. */
static const char *scaling_type(const coterie_keys_t *scaling)
{
    const json_t *type;

    if (scaling->object == NULL)
        return "default";
    type = coterie_keys_get(scaling, "rope_type");
    if (type == NULL)
        type = coterie_keys_get(scaling, "type"); /* before transformers 4.43 */
    return json_is_string(type) ? json_string_value(type) : "absent";
}

/* Defaults are those of the published model's code. */
static void yarn_read(coterie_keys_t *scaling, coterie_model_config_t *config)
{
    refuse_unknown(scaling);
    config->rope_factor = coterie_keys_real(scaling, "factor");
    config->rope_beta_fast = coterie_keys_real_or(scaling, "beta_fast", 32);
    config->rope_beta_slow = coterie_keys_real_or(scaling, "beta_slow", 1);
    config->rope_mscale = coterie_keys_real_or(scaling, "mscale", 1);
    config->rope_mscale_all_dim =
        coterie_keys_real_or(scaling, "mscale_all_dim", 0);
    config->rope_original_max = coterie_keys_real_or(
        scaling, "original_max_position_embeddings", 4096);
    config->rope_truncate = coterie_keys_flag_or(scaling, "truncate", 1);
    if (!(config->rope_factor >= 1))
        coterie_keys_malformed(scaling, "factor", "of yarn is below 1");
    if (!(config->rope_original_max >= 1))
        coterie_keys_malformed(scaling, "original_max_position_embeddings",
                               "is below 1");
}

/* Yarn has grown keys over time (attention_factor); one that is not
 * computed here must not pass unseen. */
static void refuse_unknown(coterie_keys_t *scaling)
{
    static const char *const known[] = {
        "type",      "rope_type", "rope_theta",     "factor",
        "beta_fast", "beta_slow", "mscale",         "mscale_all_dim",
        "original_max_position_embeddings", "partial_rotary_factor",
        "truncate"};
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)scaling->object, key, value) {
        size_t i = 0, count = sizeof(known) / sizeof(known[0]);
        while (i < count && strcmp(known[i], key) != 0)
            i++;
        if (i == count && !json_is_null(value))
            coterie_keys_refuse(scaling, key, "no such key in yarn scaling");
    }
}
