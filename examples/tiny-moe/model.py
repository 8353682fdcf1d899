"""The training-time twin of Hugging Face's Qwen3MoeForCausalLM.

Same arithmetic and, once exported, the same tensor names; only the expert
layer is our own: tokens are sorted by expert so that every expert is one
matrix product, forward and backward, which on a CPU is several times faster
than masking.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Config:
    vocab: int = 256
    hidden: int = 128
    layers: int = 8
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    experts: int = 16
    top_k: int = 2
    expert_ffn: int = 128
    rope_theta: float = 10000.0
    eps: float = 1e-6
    max_positions: int = 1024


@torch.compile
def gate_forward(gate_up, weight):
    gate, up = gate_up.float().chunk(2, -1)
    return (F.silu(gate) * up * weight).to(gate_up.dtype)


@torch.compile
def gate_backward(gate_up, weight, grad):
    gate, up = gate_up.float().chunk(2, -1)
    grad = grad.float()
    sig = torch.sigmoid(gate)
    act = gate * sig
    d_weight = (grad * act * up).sum(-1, keepdim=True)
    grad = grad * weight
    d_gate = grad * up * (sig + act * (1 - sig))
    d_gate_up = torch.cat((d_gate, grad * act), -1)
    return d_gate_up.to(gate_up.dtype), d_weight


class Experts(torch.autograd.Function):
    """Weighted sum of each token's top-k experts."""

    @staticmethod
    def forward(ctx, x, weight, ids, w_in, w_out, dtype):
        tokens, k = ids.shape
        order = ids.flatten().argsort(stable=True)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(order.numel())
        ends = torch.bincount(ids.flatten(), minlength=w_in.shape[0]) \
            .cumsum(0).tolist()
        xs = x.to(dtype).index_select(0, order // k)
        ws = weight.float().flatten()[order].unsqueeze(1)
        w_in, w_out = w_in.to(dtype), w_out.to(dtype)
        gate_up = xs.new_empty(order.numel(), w_in.shape[1])
        for e, s in enumerate(spans(ends)):
            torch.mm(xs[s], w_in[e].t(), out=gate_up[s])
        act = gate_forward(gate_up, ws)
        ys = torch.empty_like(xs)
        for e, s in enumerate(spans(ends)):
            torch.mm(act[s], w_out[e].t(), out=ys[s])
        ctx.save_for_backward(order, inverse, xs, ws, gate_up, act, w_in,
                              w_out)
        ctx.ends, ctx.k, ctx.dtypes = ends, k, (x.dtype, weight.dtype)
        return ys.index_select(0, inverse).view(tokens, k, -1).float().sum(1)

    @staticmethod
    def backward(ctx, grad):
        order, inverse, xs, ws, gate_up, act, w_in, w_out = ctx.saved_tensors
        dy = grad.to(xs.dtype).index_select(0, order // ctx.k)
        d_act = torch.empty_like(act)
        d_out, d_in = torch.empty_like(w_out), torch.empty_like(w_in)
        for e, s in enumerate(spans(ctx.ends)):
            torch.mm(dy[s], w_out[e], out=d_act[s])
            torch.mm(dy[s].t(), act[s], out=d_out[e])
        d_gate_up, d_weight = gate_backward(gate_up, ws, d_act)
        dx = torch.empty_like(xs)
        for e, s in enumerate(spans(ctx.ends)):
            torch.mm(d_gate_up[s], w_in[e], out=dx[s])
            torch.mm(d_gate_up[s].t(), xs[s], out=d_in[e])
        dx = dx.index_select(0, inverse).view(-1, ctx.k, dx.shape[1])
        d_weight = d_weight.flatten()[inverse].view(-1, ctx.k)
        return (dx.float().sum(1).to(ctx.dtypes[0]),
                d_weight.to(ctx.dtypes[1]), None, d_in.float(),
                d_out.float(), None)


def spans(ends):
    start = 0
    for end in ends:
        yield slice(start, end)
        start = end


def rope_table(cfg, length):
    half = cfg.head_dim // 2
    freq = cfg.rope_theta ** (-torch.arange(half) / half)
    angle = torch.outer(torch.arange(length), freq)
    return angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def rms(x, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def linear(x, weight, dtype):
    return F.linear(x.to(dtype), weight.to(dtype)).float()


class Block(nn.Module):
    def __init__(self, cfg, dtype):
        super().__init__()
        self.cfg, self.dtype = cfg, dtype
        h, d = cfg.hidden, cfg.head_dim
        deep = 1 / math.sqrt(2 * cfg.layers)
        self.norm1 = nn.Parameter(torch.ones(h))
        self.norm2 = nn.Parameter(torch.ones(h))
        self.q_norm = nn.Parameter(torch.ones(d))
        self.k_norm = nn.Parameter(torch.ones(d))
        self.qkv = random((cfg.heads + 2 * cfg.kv_heads) * d, h)
        self.o = random(h, cfg.heads * d, scale=deep)
        self.gate = random(cfg.experts, h)
        self.w_in = random(cfg.experts, 2 * cfg.expert_ffn, h)
        self.w_out = random(cfg.experts, h, cfg.expert_ffn, scale=deep)

    @torch.compile
    def attend(self, x, cos, sin):
        cfg = self.cfg
        b, t, _ = x.shape
        qkv = linear(rms(x, self.norm1, cfg.eps), self.qkv, self.dtype)
        qkv = qkv.view(b, t, -1, cfg.head_dim).transpose(1, 2)
        q, k, v = qkv.split((cfg.heads, cfg.kv_heads, cfg.kv_heads), 1)
        q = rotate(rms(q, self.q_norm, cfg.eps), cos, sin)
        k = rotate(rms(k, self.k_norm, cfg.eps), cos, sin)
        group = cfg.heads // cfg.kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        y = F.scaled_dot_product_attention(
            q.to(self.dtype), k.to(self.dtype), v.to(self.dtype),
            is_causal=True)
        y = y.transpose(1, 2).reshape(b, t, -1)
        x = x + linear(y, self.o, self.dtype)
        normed = rms(x, self.norm2, cfg.eps).flatten(0, 1)
        probs = F.linear(normed, self.gate).softmax(-1)
        return x, normed, probs

    def forward(self, x, cos, sin):
        x, normed, probs = self.attend(x, cos, sin)
        weight, ids = probs.topk(self.cfg.top_k, -1)
        weight = weight / weight.sum(-1, keepdim=True)
        y = Experts.apply(normed, weight, ids, self.w_in, self.w_out,
                          self.dtype)
        return x + y.view_as(x), probs, ids


def random(*shape, scale=1.0):
    return nn.Parameter(torch.randn(*shape) * scale / math.sqrt(shape[-1]))


class Model(nn.Module):
    def __init__(self, cfg, dtype=torch.float32):
        super().__init__()
        self.cfg, self.dtype = cfg, dtype
        self.embed = nn.Parameter(torch.randn(cfg.vocab, cfg.hidden) * 0.1)
        self.blocks = nn.ModuleList(Block(cfg, dtype)
                                    for _ in range(cfg.layers))
        self.norm = nn.Parameter(torch.ones(cfg.hidden))
        self.head = random(cfg.vocab, cfg.hidden, scale=0.1)
        cos, sin = rope_table(cfg, cfg.max_positions)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def forward(self, ids):
        """Logits, and per layer the router's probabilities and choices."""
        t = ids.shape[1]
        x = F.embedding(ids, self.embed)
        routes = []
        for block in self.blocks:
            x, probs, chosen = block(x, self.cos[:t], self.sin[:t])
            routes.append((probs, chosen))
        x = rms(x, self.norm, self.cfg.eps)
        return linear(x, self.head, self.dtype), routes


def balance_loss(routes, experts):
    """Switch-style loss over the whole batch, averaged over layers.

    Over the batch, not a sequence: a sequence of one kind of text may keep
    to few experts as long as the mixture uses them all.
    """
    total = 0.0
    for probs, ids in routes:
        share = torch.bincount(ids.flatten(), minlength=experts)
        share = share / ids.numel()
        total = total + experts * (share * probs.mean(0)).sum()
    return total / len(routes)


def locality_loss(routes, sequences):
    """Entropy of each sequence's mean routing, averaged over layers.

    With balance_loss over the batch it asks that a sequence keep to few
    experts while the mixture uses all: experts specialise by kind of text,
    which is what placement lives on.
    """
    total = 0.0
    for probs, _ in routes:
        mean = probs.view(sequences, -1, probs.shape[-1]).mean(1)
        total = total - (mean * (mean + 1e-9).log()).sum(-1).mean()
    return total / len(routes)


def hf_config(cfg):
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "vocab_size": cfg.vocab,
        "hidden_size": cfg.hidden,
        "intermediate_size": cfg.expert_ffn,
        "moe_intermediate_size": cfg.expert_ffn,
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "num_key_value_heads": cfg.kv_heads,
        "head_dim": cfg.head_dim,
        "num_experts": cfg.experts,
        "num_experts_per_tok": cfg.top_k,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "hidden_act": "silu",
        "rms_norm_eps": cfg.eps,
        "rope_theta": cfg.rope_theta,
        "rope_scaling": None,
        "max_position_embeddings": cfg.max_positions,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": None,
        "eos_token_id": None,
    }


def hf_tensors(model):
    """Tensors under Hugging Face's names, views of the model's own."""
    cfg = model.cfg
    q, kv = cfg.heads * cfg.head_dim, cfg.kv_heads * cfg.head_dim
    out = {"model.embed_tokens.weight": model.embed,
           "model.norm.weight": model.norm, "lm_head.weight": model.head}
    for i, b in enumerate(model.blocks):
        p = f"model.layers.{i}."
        wq, wk, wv = b.qkv.split((q, kv, kv))
        out.update({
            p + "input_layernorm.weight": b.norm1,
            p + "post_attention_layernorm.weight": b.norm2,
            p + "self_attn.q_proj.weight": wq,
            p + "self_attn.k_proj.weight": wk,
            p + "self_attn.v_proj.weight": wv,
            p + "self_attn.o_proj.weight": b.o,
            p + "self_attn.q_norm.weight": b.q_norm,
            p + "self_attn.k_norm.weight": b.k_norm,
            p + "mlp.gate.weight": b.gate})
        for e in range(cfg.experts):
            gate, up = b.w_in[e].chunk(2)
            x = p + f"mlp.experts.{e}."
            out[x + "gate_proj.weight"] = gate
            out[x + "up_proj.weight"] = up
            out[x + "down_proj.weight"] = b.w_out[e]
    return {name: t.detach() for name, t in out.items()}


def load_hf(model, tensors):
    """Copy exported tensors back; hf_tensors() yields views, so in place."""
    for name, view in hf_tensors(model).items():
        view.copy_(tensors[name])
