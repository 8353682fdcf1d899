#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/ffn.h>
#include <coterie/kernels.h>

#include "experts/shape.h"
#include "tests/models.h"

static void shape_of(json_t *config, coterie_shape_t *shape);
static void expect_refused(const char *fixture, const char *key, json_t *value,
                           coterie_status_t status);

Test(shape, has_what_each_architecture_says_of_attention)
{
    coterie_shape_t s;
    shape_of(config_load("mixtral"), &s);
    cr_expect(eq(u32, s.config.head_dim, 8)); /* null there: hidden / heads */
    cr_expect(eq(u32, s.config.norm_topk, 1)); /* no key there: always */
    cr_expect(eq(flt, s.config.norm_eps, 1e-5f));
    coterie_shape_clear(&s);
    shape_of(config_load("qwen3-moe"), &s);
    cr_expect(eq(u32, s.config.head_dim, 16)); /* not hidden / heads */
    cr_expect(eq(u32, s.config.qkv_bias, 0));
    coterie_shape_clear(&s);
    shape_of(config_load("qwen2-moe"), &s);
    cr_expect(eq(u32, s.config.qkv_bias, 1));
    cr_expect(eq(u32, s.config.norm_topk, 0));
    coterie_shape_clear(&s);
    shape_of(config_load("olmoe-clip"), &s);
    cr_expect(eq(flt, s.config.clip_qkv, 1.5f));
    coterie_shape_clear(&s);
}

Test(shape, has_what_deepseek_says_of_latents_and_groups)
{
    coterie_shape_t s;
    shape_of(config_load("deepseek-v2"), &s);
    cr_expect(eq(u32, s.config.q_lora_rank, 0)); /* null there */
    cr_expect(eq(u32, s.config.group_count, 0)); /* greedy */
    coterie_shape_clear(&s);
    shape_of(config_load("deepseek-v2-groups"), &s);
    cr_expect(eq(u32, s.config.q_lora_rank, 24));
    cr_expect(eq(u32, s.config.kv_lora_rank, 16));
    cr_expect(eq(u32, s.config.qk_nope_dim, 12));
    cr_expect(eq(u32, s.config.qk_rope_dim, 8));
    cr_expect(eq(u32, s.config.v_head_dim, 10));
    cr_expect(eq(u32, s.config.group_count, 4));
    cr_expect(eq(u32, s.config.group_topk, 2));
    cr_expect(eq(flt, s.config.routed_scale, 2.5f));
    cr_expect(eq(flt, s.config.rope_factor, 0));
    coterie_shape_clear(&s);
}

Test(shape, has_what_deepseek_v3_and_gpt_oss_add)
{
    coterie_shape_t s;
    shape_of(config_load("deepseek-v3"), &s);
    cr_expect(eq(u32, s.config.scoring, COTERIE_SCORING_SIGMOID));
    cr_expect(eq(u32, s.config.norm_topk, 1));
    cr_expect(eq(u32, s.config.group_count, 4));
    cr_expect(eq(u32, s.config.rope_truncate, 1));
    cr_expect(eq(u32, s.config.expert_bias, 0));
    coterie_shape_clear(&s);
    shape_of(config_load("gpt-oss"), &s);
    cr_expect(eq(u32, s.config.activation, COTERIE_ACTIVATION_SWIGLU_CLAMPED));
    cr_expect(eq(flt, s.config.swiglu_alpha, 1.702f));
    cr_expect(eq(flt, s.config.swiglu_limit, 7));
    cr_expect(eq(u32, s.config.expert_bias, 1));
    cr_expect(eq(u32, s.config.attention_bias, 1));
    cr_expect(eq(u32, s.config.rope_truncate, 0));
    cr_expect(eq(u32, s.window_of[0], 8));
    cr_expect(eq(u32, s.window_of[1], 0));
    coterie_shape_clear(&s);
    json_t *config = config_load("gpt-oss");
    json_object_del(config, "layer_types"); /* every other, then */
    shape_of(config, &s);
    cr_expect(eq(u32, s.window_of[0], 8));
    cr_expect(eq(u32, s.window_of[1], 0));
    cr_expect(eq(u32, s.window_of[2], 8));
    coterie_shape_clear(&s);
}

Test(shape, reads_rotary_positions_as_transformers_5_writes_them)
{
    coterie_shape_t s;
    json_t *config = config_load("qwen3-moe");
    json_object_del(config, "rope_theta");
    json_object_del(config, "rope_scaling");
    json_object_set_new(config, "rope_parameters",
                        json_pack("{s:s, s:f}", "rope_type", "default",
                                  "rope_theta", 5e5));
    shape_of(config, &s);
    cr_expect(eq(flt, s.config.rope_theta, 5e5f));
    coterie_shape_clear(&s);
}

Test(shape, reads_yarn_in_full)
{
    coterie_shape_t s;
    json_t *config = config_load("deepseek-v2");
    json_object_set_new(
        config, "rope_scaling",
        json_pack("{s:s, s:i, s:i, s:i, s:f, s:f, s:i}", "type", "yarn",
                  "factor", 40, "beta_fast", 31, "beta_slow", 2, "mscale",
                  0.75, "mscale_all_dim", 0.5,
                  "original_max_position_embeddings", 2048));
    shape_of(config, &s);
    cr_expect(eq(flt, s.config.rope_factor, 40));
    cr_expect(eq(flt, s.config.rope_beta_fast, 31));
    cr_expect(eq(flt, s.config.rope_beta_slow, 2));
    cr_expect(eq(flt, s.config.rope_mscale, 0.75f));
    cr_expect(eq(flt, s.config.rope_mscale_all_dim, 0.5f));
    cr_expect(eq(flt, s.config.rope_original_max, 2048));
    coterie_shape_clear(&s);
}

Test(shape, counts_layers_with_experts_by_moe_layer_freq)
{
    coterie_shape_t s;
    json_t *config = config_load("deepseek-v2");
    json_object_set_new(config, "moe_layer_freq", json_integer(2));
    shape_of(config, &s); /* layer 0 is dense, 1 is odd */
    cr_expect(eq(u32, s.config.moe_layers, 1));
    cr_expect(eq(u32, s.layer_of[0], 2));
    coterie_shape_clear(&s);
}

Test(shape, ignores_a_window_that_is_off_or_too_wide_to_matter)
{
    coterie_shape_t s;
    json_t *config = config_load("mixtral");
    json_object_set_new(config, "sliding_window", json_integer(128));
    shape_of(config, &s);
    coterie_shape_clear(&s);
    config = config_load("qwen2-moe"); /* use_sliding_window is false */
    json_object_set_new(config, "sliding_window", json_integer(64));
    shape_of(config, &s);
    coterie_shape_clear(&s);
}

Test(shape, of_an_unknown_architecture_is_refused_with_the_known_ones)
{
    expect_refused("mixtral", "model_type", json_string("mamba"),
                   COTERIE_ERR_UNSUPPORTED);
    cr_expect(ne(ptr, strstr((char *)coterie_last_error(), "mamba"), NULL));
    cr_expect(ne(ptr, strstr((char *)coterie_last_error(),
                             "mixtral, qwen2_moe, qwen3_moe, olmoe, "
                             "deepseek_v2"),
                 NULL));
    expect_refused("mixtral", "model_type", NULL, COTERIE_ERR_FORMAT);
}

Test(shape, with_a_setting_that_nothing_computes_is_refused_by_its_name)
{
    const coterie_status_t no = COTERIE_ERR_UNSUPPORTED;
    expect_refused("mixtral", "sliding_window", json_integer(64), no);
    expect_refused("mixtral", "hidden_act", json_string("gelu"), no);
    expect_refused("qwen3-moe", "attention_bias", json_true(), no);
    expect_refused("qwen3-moe", "quantization_config", json_object(), no);
    expect_refused("qwen3-moe", "partial_rotary_factor", json_real(0.5), no);
    expect_refused("qwen3-moe", "rope_scaling",
                   json_pack("{s:s, s:i}", "rope_type", "yarn", "factor", 4),
                   no);
    expect_refused("deepseek-v2", "rope_scaling",
                   json_pack("{s:s, s:i, s:f}", "rope_type", "yarn", "factor",
                             4, "attention_factor", 0.5),
                   no);
    expect_refused("qwen2-moe", "layer_types",
                   json_pack("[s]", "sliding_attention"), no);
    expect_refused("deepseek-v2", "scoring_func", json_string("sigmoid"), no);
    expect_refused("deepseek-v2", "topk_method", json_string("noaux_tc"), no);
    expect_refused("deepseek-v2", "norm_topk_prob", json_true(), no);
    expect_refused("deepseek-v3", "scoring_func", json_string("softmax"), no);
    expect_refused("deepseek-v3", "topk_method", json_string("greedy"), no);
    expect_refused("deepseek-v3", "rope_interleave", json_false(), no);
    expect_refused("deepseek-v3-fp8", "quantization_config",
                   json_pack("{s:s, s:[i, i]}", "quant_method", "fp8",
                             "weight_block_size", 1, 128),
                   no);
    expect_refused("gpt-oss", "quantization_config",
                   json_pack("{s:s}", "quant_method", "gptq"), no);
    expect_refused("gpt-oss", "layer_types",
                   json_pack("[s, s]", "full_attention", "full_attention"),
                   no);
    expect_refused("gpt-oss", "layer_types",
                   json_pack("[s, s, s]", "full_attention", "full_attention",
                             "linear_attention"),
                   no);
}

Test(shape, that_contradicts_itself_is_refused_by_key)
{
    const coterie_status_t bad = COTERIE_ERR_FORMAT;
    expect_refused("mixtral", "hidden_size", NULL, bad);
    expect_refused("mixtral", "hidden_size", json_integer(-1), bad);
    expect_refused("mixtral", "hidden_size", json_integer(1LL << 40), bad);
    expect_refused("mixtral", "hidden_size", json_string("32"), bad);
    expect_refused("mixtral", "rms_norm_eps", json_string("small"), bad);
    expect_refused("mixtral", "rms_norm_eps", json_real(-1), bad);
    expect_refused("mixtral", "rope_theta", NULL, bad);
    expect_refused("mixtral", "rope_theta", json_integer(0), bad);
    expect_refused("mixtral", "num_key_value_heads", json_integer(3), bad);
    expect_refused("mixtral", "num_experts_per_tok", json_integer(5), bad);
    expect_refused("mixtral", "head_dim", json_integer(7), bad);
    expect_refused("qwen2-moe", "decoder_sparse_step", json_integer(9), bad);
    expect_refused("qwen2-moe", "intermediate_size", NULL, bad);
    expect_refused("qwen2-moe", "norm_topk_prob", json_integer(1), bad);
    expect_refused("deepseek-v2-groups", "n_group", json_integer(3), bad);
    expect_refused("deepseek-v2-groups", "topk_group", json_integer(5), bad);
    expect_refused("deepseek-v3", "n_group", json_integer(3), bad);
    expect_refused("gpt-oss", "sliding_window", NULL, bad);
}

/* Takes config over. */
static void shape_of(json_t *config, coterie_shape_t *shape)
{
    char *text = json_dumps(config, 0);

    cr_assert(coterie_shape_read(text, "config.json", shape) == COTERIE_OK,
              "%s", coterie_last_error());
    free(text);
    json_decref(config);
}

/* The fixture's config with one value changed, or none where value is NULL. */
static void expect_refused(const char *fixture, const char *key, json_t *value,
                           coterie_status_t status)
{
    json_t *config = config_load(fixture);
    coterie_shape_t shape = {.config = {.arch = 77}};
    char *text;

    if (value != NULL)
        json_object_set_new(config, key, value);
    else
        json_object_del(config, key);
    text = json_dumps(config, 0);
    cr_expect(eq(int, status, coterie_shape_read(text, "config.json", &shape)),
              "%s", key);
    cr_expect(strstr(coterie_last_error(), key) != NULL, "%s: %s", key,
              coterie_last_error());
    cr_expect(eq(u32, shape.config.arch, 77)); /* untouched on failure */
    free(text);
    json_decref(config);
}
