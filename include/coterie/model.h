#ifndef COTERIE_MODEL_H
#define COTERIE_MODEL_H
/** @file
 * Models: a Hugging Face directory or an expert store, behind one handle.
 * Reading is safe from many threads; opening and closing are not. */
#include <coterie/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct coterie_model coterie_model_t;

/** Published architectures. Values are ABI. */
typedef enum coterie_arch {
    COTERIE_ARCH_MIXTRAL = 1,
    COTERIE_ARCH_QWEN2_MOE = 2,
    COTERIE_ARCH_QWEN3_MOE = 3,
    COTERIE_ARCH_OLMOE = 4,
    COTERIE_ARCH_DEEPSEEK_V2 = 5,
    COTERIE_ARCH_DEEPSEEK_V3 = 6,
    COTERIE_ARCH_GPT_OSS = 7
} coterie_arch_t;

/** What config.json says, in one vocabulary for all architectures. Counts are
 * elements; what an architecture lacks is 0. */
typedef struct coterie_model_config {
    size_t size;
    uint32_t arch; /**< coterie_arch_t */
    uint32_t vocab, hidden, layers, max_position;
    uint32_t moe_layers;   /**< those with experts */
    uint32_t experts, k;   /**< routed experts a layer, chosen per token */
    uint32_t ffn;          /**< of one routed expert */
    uint32_t shared_ffn;   /**< of all shared experts together */
    uint32_t dense_ffn;    /**< of the layers without experts */
    uint32_t heads, kv_heads, head_dim;
    uint32_t q_lora_rank, kv_lora_rank, qk_nope_dim, qk_rope_dim, v_head_dim;
    uint32_t group_count, group_topk; /**< group-limited routers */
    uint32_t tied_embeddings, norm_topk, qkv_bias;
    uint32_t scoring;        /**< coterie_scoring_t, of the router */
    uint32_t attention_bias; /**< on what attention gives, too */
    uint32_t expert_bias;    /**< and on the router's logits */
    uint32_t activation;     /**< coterie_activation_t, of routed experts */
    uint32_t rope_truncate;  /**< yarn's range is of whole pairs */
    uint32_t reserved;
    float norm_eps, rope_theta, routed_scale, clip_qkv;
    float swiglu_alpha, swiglu_limit; /**< of SWIGLU_CLAMPED */
    /** yarn; factor 0 = plain rope */
    float rope_factor, rope_beta_fast, rope_beta_slow, rope_mscale,
        rope_mscale_all_dim, rope_original_max;
} coterie_model_config_t;

/** Opens a model directory or a store, told apart by content; reads headers
 * and checks every tensor's presence and shape, but no weights.
 * @return ERR_FORMAT, ERR_NOT_FOUND (missing tensor or file, named),
 *         ERR_MISMATCH (wrong shape), ERR_UNSUPPORTED (architecture) */
COTERIE_API coterie_status_t coterie_model_open(const char *path,
                                                coterie_model_t **model_p);

COTERIE_API void coterie_model_config(const coterie_model_t *model,
                                      coterie_model_config_t *config);

/** The model layer of MoE layer l, or the other way round; COTERIE_NO_LAYER if
 * there is none. */
#define COTERIE_NO_LAYER 0xffffffffu
COTERIE_API uint32_t coterie_model_layer_of(const coterie_model_t *model,
                                            uint32_t moe_layer);
COTERIE_API uint32_t coterie_model_moe_layer_of(const coterie_model_t *model,
                                                uint32_t layer);

/** Reads a tensor that is not a routed expert's, by its Hugging Face name, as
 * f32.
 * @param count  elements the caller expects; ERR_MISMATCH if it has others
 * @return ERR_NOT_FOUND, ERR_CORRUPT (checksum; the tensor is named) */
COTERIE_API coterie_status_t coterie_model_tensor(const coterie_model_t *model,
                                                  const char *name,
                                                  uint64_t count, float *out);

/** Positions that a layer's attention sees, up to its own; 0 = all. */
COTERIE_API uint32_t coterie_model_window(const coterie_model_t *model,
                                          uint32_t layer);

/** A dtype as options and files spell it: "bf16", "int8-group". */
COTERIE_API const char *coterie_dtype_name(uint32_t dtype);

/** The other way. @return ERR_UNSUPPORTED, and the line lists all */
COTERIE_API coterie_status_t coterie_dtype_parse(const char *name,
                                                 uint32_t *dtype_p);

/** How an expert's record is laid out: a number that never changes meaning.
 * ROWS: gate [ffn, hidden], up [ffn, hidden], down [hidden, ffn], row-major,
 * one after the other, each aligned to 64 bytes, in the model's own dtype.
 * PANELS: the same in panels (coterie/ffn.h), then what scales are apart from
 * these, then their biases. 2 was panels with all scales apart. */
typedef enum coterie_layout {
    COTERIE_LAYOUT_ROWS = 1,
    COTERIE_LAYOUT_PANELS = 3
} coterie_layout_t;

/** Where things are in one expert's record; the same for every expert. */
typedef struct coterie_expert_format {
    size_t size;
    uint32_t layout; /**< coterie_layout_t */
    uint32_t dtype;  /**< coterie_dtype_t */
    uint32_t hidden, ffn;
    uint64_t record_size; /**< bytes; a multiple of 4096 */
    uint64_t gate_offset, up_offset, down_offset;
    /** 0 = none */
    uint64_t gate_scale_offset, up_scale_offset, down_scale_offset;
    uint64_t gate_bias_offset, up_bias_offset, down_bias_offset;
    uint32_t activation; /**< coterie_activation_t */
    float alpha, limit;  /**< of SWIGLU_CLAMPED */
    /** Of a store that was packed to another dtype: the dtype before, and the
     * root of the mean square of what was lost over that of the weights. */
    uint32_t packed_from; /**< 0: as it was */
    float error;
    uint32_t reserved; /**< zero */
} coterie_expert_format_t;

COTERIE_API void coterie_model_expert_format(const coterie_model_t *model,
                                             coterie_expert_format_t *format);

/** Reads one routed expert's record (checksums verified) into record, which
 * has record_size bytes; gaps are zero. */
COTERIE_API coterie_status_t coterie_model_expert(const coterie_model_t *model,
                                                  uint32_t moe_layer,
                                                  uint32_t expert,
                                                  void *record);

/** What a file turned out to be, as one line: model, store. */
COTERIE_API void coterie_model_describe(const coterie_model_t *model,
                                        char *text, size_t size);

/** Accepts NULL. */
COTERIE_API void coterie_model_close(coterie_model_t *model);

/** Start from COTERIE_PACK_OPTIONS_INIT. */
typedef struct coterie_pack_options {
    size_t size;
    uint32_t force; /**< overwrite an existing store */
    uint32_t dtype; /**< coterie_dtype_t of the experts; 0: the model's own */
    void (*progress)(void *arg, uint64_t done, uint64_t total); /**< bytes */
    void *progress_arg;
    /** [stripe_count] files on other drives: records take turns over the store
     * and these. They must not exist; the store needs them where they are. */
    const char *const *stripes;
    uint32_t stripe_count;
    uint32_t reserved; /**< zero */
} coterie_pack_options_t;

#define COTERIE_PACK_OPTIONS_INIT { .size = sizeof(coterie_pack_options_t) }

/** Writes an expert store: one 4 KiB-aligned, checksummed record per expert
 * and the dense tensors (doc/formats.md). Whole or not at all. Only experts
 * change their dtype. Needs memory for two records, or the largest tensor.
 * @return ERR_EXISTS, ERR_IO (disk full: names the file and the bytes short),
 *         ERR_UNSUPPORTED (the dtype cannot hold these experts) */
COTERIE_API coterie_status_t coterie_model_pack(
    const coterie_model_t *model, const char *path,
    const coterie_pack_options_t *options);

#ifdef __cplusplus
}
#endif
#endif
