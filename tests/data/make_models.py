#!/usr/bin/env python3
"""Make the random-weight models of tests/data/models and their references.

Needs torch, numpy, safetensors and transformers 4.57; the results are
committed, so a build and its tests need none of them.
"""
import argparse
import json
import os
import shutil

import numpy as np
import torch
import transformers as tf
from safetensors.torch import save_file

LENGTHS = (1, 9, 24)
NEW_TOKENS = 16
# Far above f32 noise, so that another order of addition cannot flip a token.
SMALLEST_GAP = 2e-2

COMMON = dict(vocab_size=256, hidden_size=32, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=128,
              initializer_range=0.3, tie_word_embeddings=False,
              bos_token_id=None, eos_token_id=None, pad_token_id=None)


def mixtral():
    return tf.MixtralForCausalLM, tf.MixtralConfig(
        **COMMON, num_hidden_layers=3, intermediate_size=48,
        num_local_experts=4, num_experts_per_tok=2, rope_theta=1e6,
        rms_norm_eps=1e-5, sliding_window=None)


def qwen2_moe():
    return tf.Qwen2MoeForCausalLM, tf.Qwen2MoeConfig(
        **COMMON, num_hidden_layers=3, intermediate_size=64,
        moe_intermediate_size=16, shared_expert_intermediate_size=40,
        num_experts=6, num_experts_per_tok=3, norm_topk_prob=False,
        mlp_only_layers=[0], decoder_sparse_step=1, qkv_bias=True,
        rope_theta=1e6, rms_norm_eps=1e-6, use_sliding_window=False)


def qwen2_moe_sparse_step():
    cls, config = qwen2_moe()
    config.mlp_only_layers, config.decoder_sparse_step = [], 2
    config.norm_topk_prob, config.num_hidden_layers = True, 4
    return cls, config


def qwen3_moe():
    # head_dim is not hidden / heads: a reader must take it from the config.
    return tf.Qwen3MoeForCausalLM, tf.Qwen3MoeConfig(
        **COMMON, head_dim=16, num_hidden_layers=3, intermediate_size=64,
        moe_intermediate_size=24, num_experts=8, num_experts_per_tok=2,
        norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[],
        rope_theta=1e6, rms_norm_eps=1e-6)


def olmoe(**changes):
    return tf.OlmoeForCausalLM, tf.OlmoeConfig(
        **{**COMMON, **changes}, num_hidden_layers=2, intermediate_size=24,
        num_experts=8, num_experts_per_tok=4, norm_topk_prob=False,
        rope_theta=1e4, rms_norm_eps=1e-5)


def deepseek_v2(**changes):
    settings = dict(
        num_hidden_layers=3, intermediate_size=64, moe_intermediate_size=20,
        n_routed_experts=8, n_shared_experts=2, num_experts_per_tok=3,
        first_k_dense_replace=1, kv_lora_rank=16, qk_nope_head_dim=12,
        qk_rope_head_dim=8, v_head_dim=10, q_lora_rank=None,
        topk_method="greedy", n_group=1, topk_group=1,
        routed_scaling_factor=1.0, norm_topk_prob=False, rope_theta=1e4,
        rms_norm_eps=1e-6)
    common = {**COMMON, "num_key_value_heads": 4}
    return tf.DeepseekV2ForCausalLM, tf.DeepseekV2Config(
        **{**common, **settings, **changes})


def deepseek_v2_groups():
    return deepseek_v2(q_lora_rank=24, topk_method="group_limited_greedy",
                       n_group=4, topk_group=2, routed_scaling_factor=2.5,
                       num_experts_per_tok=4, moe_intermediate_size=12)


def deepseek_v3(**changes):
    settings = dict(
        num_hidden_layers=3, intermediate_size=64, moe_intermediate_size=20,
        n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=3,
        first_k_dense_replace=1, kv_lora_rank=16, qk_nope_head_dim=12,
        qk_rope_head_dim=8, v_head_dim=10, q_lora_rank=24, n_group=4,
        topk_group=2, routed_scaling_factor=2.5, norm_topk_prob=True,
        rope_theta=1e4, rms_norm_eps=1e-6, num_key_value_heads=4,
        rope_scaling=dict(type="yarn", factor=4.0, beta_fast=32, beta_slow=1,
                          mscale=1.0, mscale_all_dim=1.0,
                          original_max_position_embeddings=32))
    return tf.DeepseekV3ForCausalLM, tf.DeepseekV3Config(
        **{**COMMON, **settings, **changes})


def deepseek_v3_fp8():
    # Blocks of 128 are ragged in every direction, and more than one.
    return deepseek_v3(num_hidden_layers=2, moe_intermediate_size=132,
                       rope_scaling=None, q_lora_rank=None)


def gpt_oss(**changes):
    settings = dict(
        hidden_size=64, head_dim=16, num_hidden_layers=3,
        intermediate_size=32, num_local_experts=6, num_experts_per_tok=3,
        sliding_window=8, rope_theta=1.5e5, rms_norm_eps=1e-5,
        swiglu_limit=7.0, attention_bias=True,
        layer_types=["sliding_attention", "full_attention",
                     "sliding_attention"],
        rope_scaling=dict(rope_type="yarn", factor=32.0, beta_fast=32.0,
                          beta_slow=1.0, truncate=False,
                          original_max_position_embeddings=32))
    return tf.GptOssForCausalLM, tf.GptOssConfig(
        **{**COMMON, **settings, **changes})


# A quantiser takes a model, leaves in it what it stores, decoded, and gives
# the tensors to store and config.json's quantization_config.
def fp8_blocks(model):
    """DeepSeek-V3: 128 x 128 blocks, weight = q * weight_scale_inv."""
    tensors = {}
    for name, p in model.state_dict().items():
        if not name.endswith("proj.weight") and "_proj" not in name:
            keep = torch.float32 if "correction" in name else torch.bfloat16
            tensors[name] = p.to(keep)
            p.copy_(tensors[name].float())
            continue
        rows, columns = p.shape
        q = torch.empty(p.shape, dtype=torch.float8_e4m3fn)
        scales = torch.empty(-(-rows // 128), -(-columns // 128))
        for i in range(0, rows, 128):
            for j in range(0, columns, 128):
                block = p[i:i + 128, j:j + 128]
                scale = block.abs().max() / 448
                scales[i // 128, j // 128] = scale
                q[i:i + 128, j:j + 128] = (block / scale).to(q.dtype)
                block.copy_(q[i:i + 128, j:j + 128].float() * scale)
        tensors[name], tensors[name + "_scale_inv"] = q, scales
    return tensors, dict(quant_method="fp8", fmt="e4m3",
                         activation_scheme="dynamic",
                         weight_block_size=[128, 128])


E2M1 = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6])


def mxfp4_blocks(model):
    """gpt-oss: rows of outputs, two codes a byte, the earlier one low."""
    tensors = {}
    for name, p in model.state_dict().items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            tensors[name] = p.to(torch.bfloat16)
            p.copy_(tensors[name].float())
            continue
        groups = p.transpose(1, 2).unflatten(2, (-1, 32))
        exponent = groups.abs().amax(-1, keepdim=True).log2().floor() - 2
        scaled = groups / 2 ** exponent
        codes = (scaled.abs()[..., None] - E2M1).abs().argmin(-1)
        decoded = E2M1[codes] * scaled.sign() * 2 ** exponent
        codes += 8 * (scaled < 0)
        tensors[name + "_blocks"] = (
            codes[..., ::2] + 16 * codes[..., 1::2]).to(torch.uint8)
        tensors[name + "_scales"] = (exponent[..., 0] + 127).to(torch.uint8)
        p.copy_(decoded.flatten(2).transpose(1, 2))
    return tensors, dict(quant_method="mxfp4", modules_to_not_convert=[
        "model.layers.*.self_attn", "model.layers.*.mlp.router",
        "model.embed_tokens", "lm_head"])


# name: (maker, stored dtype or quantiser, shard size)
MODELS = {
    "mixtral": (mixtral, torch.bfloat16, "5GB"),
    "qwen2-moe": (qwen2_moe, torch.float32, "5GB"),
    "qwen2-moe-step": (qwen2_moe_sparse_step, torch.bfloat16, "5GB"),
    "qwen3-moe": (qwen3_moe, torch.bfloat16, "5GB"),
    "qwen3-moe-sharded": (qwen3_moe, torch.float16, "60KB"),
    "olmoe": (olmoe, torch.float32, "5GB"),
    "olmoe-clip": (lambda: olmoe(clip_qkv=1.5), torch.float16, "5GB"),
    "deepseek-v2": (deepseek_v2, torch.bfloat16, "5GB"),
    "deepseek-v2-groups": (deepseek_v2_groups, torch.float32, "5GB"),
    "deepseek-v3": (deepseek_v3, torch.bfloat16, "5GB"),
    "deepseek-v3-fp8": (deepseek_v3_fp8, fp8_blocks, None),
    "gpt-oss": (gpt_oss, mxfp4_blocks, None),
    "gpt-oss-bf16": (gpt_oss, torch.bfloat16, "5GB"),
}


def randomise(model, generator):
    """Norms at one and biases at zero would hide a reader's mistakes."""
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if name.endswith("norm.weight"):
            p.data = 1 + 0.2 * noise
        elif name.endswith("bias"):
            p.data = 0.2 * noise
        else:
            p.data = model.config.initializer_range * noise
    # Positive: what is out of the best groups counts as zero.
    for name, b in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            b.copy_(0.2 * torch.rand(b.shape, generator=generator))


@torch.no_grad()
def greedy(model, prompt, count):
    """Full recomputation per token: no cache that could hide a fault."""
    ids, gap = list(prompt), float("inf")
    first = None
    for _ in range(count):
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
        first = logits if first is None else first
        top = logits[-1].topk(2).values
        gap = min(gap, (top[0] - top[1]).item())
        ids.append(int(logits[-1].argmax()))
    return first.numpy(), ids[len(prompt):], gap


def choose_prompt(model, length, rng):
    """Draw until the greedy path has no near tie."""
    while True:
        prompt = rng.integers(0, 256, length).tolist()
        logits, tokens, gap = greedy(model, prompt, NEW_TOKENS)
        if gap > SMALLEST_GAP and len(set(tokens)) > 2:
            return prompt, logits, tokens, gap


def reference(model, folder, rng):
    cases, rows = [], []
    for length in LENGTHS:
        prompt, logits, tokens, gap = choose_prompt(model, length, rng)
        cases.append({"prompt": prompt, "greedy": tokens,
                      "min_gap": round(gap, 6)})
        rows.append(logits)
    np.save(os.path.join(folder, "logits.npy"),
            np.concatenate(rows).astype(np.float32))
    return cases


def write_reference(folder, cases):
    """One case a line: short, and a change shows in a diff."""
    rows = ",\n".join("    " + json.dumps(c) for c in cases)
    with open(os.path.join(folder, "reference.json"), "w") as f:
        f.write('{\n  "logits": "logits.npy",\n  "cases": [\n'
                + rows + "\n  ]\n}\n")


@torch.no_grad()
def save_quantised(model, quantise, folder):
    model.config._attn_implementation = "eager"
    tensors, quantization = quantise(model)
    config = model.config.to_diff_dict()
    config.update(quantization_config=quantization,
                  architectures=[type(model).__name__])
    os.makedirs(folder)
    save_file({n: t.contiguous() for n, t in tensors.items()},
              os.path.join(folder, "model.safetensors"), {"format": "pt"})
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f, indent=2, sort_keys=True)
        f.write("\n")


def make(name, root, seed):
    maker, dtype, shard = MODELS[name]
    cls, config = maker()
    folder = os.path.join(root, name)
    shutil.rmtree(folder, ignore_errors=True)
    generator = torch.Generator().manual_seed(seed)
    model = cls(config)
    randomise(model, generator)
    if isinstance(dtype, torch.dtype):
        model.to(dtype).save_pretrained(folder, max_shard_size=shard)
        model = cls.from_pretrained(folder, dtype=torch.float32,
                                    attn_implementation="eager")
    else:
        save_quantised(model, dtype, folder)
    # Sampling defaults; nothing here samples.
    extra = os.path.join(folder, "generation_config.json")
    if os.path.exists(extra):
        os.remove(extra)
    for file in os.listdir(folder):
        os.chmod(os.path.join(folder, file), 0o644)
    cases = reference(model.eval(), folder, np.random.default_rng(seed))
    write_reference(folder, cases)
    size = sum(os.path.getsize(os.path.join(folder, f))
               for f in os.listdir(folder))
    print(f"{name}: {size / 1e3:.0f} kB, gaps",
          [c["min_gap"] for c in cases])


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--out", required=True, help="tests/data/models")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("names", nargs="*", default=list(MODELS))
    args = p.parse_args()
    torch.set_num_threads(1)
    for name in args.names:
        make(name, args.out, args.seed)


if __name__ == "__main__":
    main()
