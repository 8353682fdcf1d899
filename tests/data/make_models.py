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


# name: (maker, stored dtype, shard size)
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


def reference(cls, folder, rng):
    model = cls.from_pretrained(folder, dtype=torch.float32,
                                attn_implementation="eager").eval()
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


def make(name, root, seed):
    maker, dtype, shard = MODELS[name]
    cls, config = maker()
    folder = os.path.join(root, name)
    shutil.rmtree(folder, ignore_errors=True)
    generator = torch.Generator().manual_seed(seed)
    model = cls(config)
    randomise(model, generator)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    # Sampling defaults; nothing here samples.
    extra = os.path.join(folder, "generation_config.json")
    if os.path.exists(extra):
        os.remove(extra)
    for file in os.listdir(folder):
        os.chmod(os.path.join(folder, file), 0o644)
    cases = reference(cls, folder, np.random.default_rng(seed))
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
