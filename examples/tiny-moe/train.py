#!/usr/bin/env python3
"""Train the example model on the splits that corpus.py made."""
import argparse
import json
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from corpus import KINDS
from model import Config, Model, balance_loss, hf_config, hf_tensors, \
    locality_loss


def load(folder, split):
    return {k: np.fromfile(os.path.join(folder, f"{k}.{split}"), np.uint8)
            for k in KINDS}


def windows(data, starts, length):
    rows = [data[s:s + length + 1] for s in starts]
    return torch.from_numpy(np.stack(rows).astype(np.int64))


def training_batch(data, rng, progress, args):
    """Every sequence is of one kind; every batch has all kinds equally.

    Short sequences first: attention is a third of a step, and what this
    model learns early on needs no long context.
    """
    length = args.short if progress < args.short_part else args.length
    each = args.tokens // length // len(KINDS)
    return torch.cat([
        windows(data[k], rng.integers(0, len(data[k]) - length - 1, each),
                length)
        for k in KINDS])


def held_batches(data, length, count):
    """The same evenly spaced windows at every evaluation."""
    return {k: windows(d, np.linspace(0, len(d) - length - 2, count)
                       .astype(int), length) for k, d in data.items()}


@torch.no_grad()
def evaluate(model, batches):
    bits, loads = {}, []
    for kind, ids in batches.items():
        logits, routes = model(ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        bits[kind] = round(loss.item() / math.log(2), 4)
        loads.append([torch.bincount(c.flatten(),
                                     minlength=model.cfg.experts)
                      for _, c in routes])
    per_layer = [sum(x).float() for x in zip(*loads)]
    skew = [round((x.max() / x.mean()).item(), 2) for x in per_layer]
    low = [round((x.min() / x.mean()).item(), 2) for x in per_layer]
    return bits, skew, low


def make_optimizer(model, args):
    plain, decayed = [], []
    for name, p in model.named_parameters():
        matrix = p.dim() > 1 and "gate" not in name and name != "embed"
        (decayed if matrix else plain).append(p)
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": args.decay},
         {"params": plain, "weight_decay": 0.0}],
        lr=args.lr, betas=(0.9, 0.95), fused=True)


def rate(step, progress, args):
    """Warm up, hold, then fall linearly over the last part of the budget."""
    warm = min(1.0, (step + 1) / args.warmup)
    cool = min(1.0, (1.0 - progress) / args.cooldown)
    return args.lr * warm * max(cool, 0.01)


def export(model, folder):
    os.makedirs(folder, exist_ok=True)
    tensors = {n: t.to(torch.bfloat16).contiguous()
               for n, t in hf_tensors(model).items()}
    # Others may be reading the old file: replace it in one step.
    part = os.path.join(folder, "model.safetensors.part")
    save_file(tensors, part, metadata={"format": "pt"})
    os.chmod(part, 0o644)
    os.replace(part, os.path.join(folder, "model.safetensors"))
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(hf_config(model.cfg), f, indent=2)
        f.write("\n")


def train_step(model, optimizer, ids, args):
    logits, routes = model(ids[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    balance = balance_loss(routes, model.cfg.experts)
    local = locality_loss(routes, len(ids))
    (loss + args.balance * balance + args.locality * local).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    loads = torch.stack([torch.bincount(c.flatten(),
                                        minlength=model.cfg.experts)
                         for _, c in routes]).float()
    return {"train": round(loss.item() / math.log(2), 3),
            "balance": round(balance.item(), 3),
            "locality": round(local.item(), 3)}, loads


@torch.no_grad()
def revive(model, optimizer, loads, args):
    """Restart unused experts as noisy twins of the layer's busiest.

    A router can push an expert so far away that the balance loss has no
    gradient left to bring it back.
    """
    count = 0
    for block, load in zip(model.blocks, loads):
        busy = load.argsort(descending=True).tolist()
        dead = [e for e in busy if load[e] < args.dead * load.mean()]
        for e, twin in zip(dead, busy):
            for p, noise in ((block.gate, 0.4), (block.w_in, 0.05),
                             (block.w_out, 0.05)):
                p[e] = p[twin] + noise * p[twin].std() * \
                    torch.randn_like(p[twin])
                state = optimizer.state[p]
                for key in ("exp_avg", "exp_avg_sq"):
                    state[key][e] = state[key][twin]
            count += 1
    return count


def report(model, batches, state, curve, args):
    bits, skew, low = evaluate(model, batches)
    row = dict(state, held=bits, load_max=skew, load_min=low)
    curve.append(row)
    print(json.dumps(row), flush=True)
    with open(args.curve, "w") as f:
        rows = ",\n".join("  " + json.dumps(r) for r in curve)
        f.write("[\n" + rows + "\n]\n")


class Clock:
    """Progress from 0 to 1, by steps if given, else by wall clock."""

    def __init__(self, args, seconds=0):
        self.args, self.start = args, time.time() - seconds

    def seconds(self):
        return time.time() - self.start

    def progress(self, step):
        if self.args.steps:
            return step / self.args.steps
        return self.seconds() / (60 * self.args.minutes)


def checkpoint(model, optimizer, rng, step, seconds, curve, args):
    export(model, args.early)
    path = os.path.join(args.early, "state.pt")
    torch.save({"model": model.state_dict(),
                "optimizer": optimizer.state_dict(), "step": step,
                "rng": rng.bit_generator.state, "seconds": seconds,
                "curve": curve}, path + ".part")
    os.replace(path + ".part", path)


def resume(model, optimizer, rng, path):
    state = torch.load(path, weights_only=False)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    rng.bit_generator.state = state["rng"]
    return state["step"], state["seconds"], state["curve"]


def run(model, optimizer, args):
    rng = np.random.default_rng(args.seed)
    data = load(args.corpus, "train")
    batches = held_batches(load(args.corpus, "held"), args.short, 16)
    step, seconds, curve = 0, 0, []
    if args.resume:
        step, seconds, curve = resume(model, optimizer, rng, args.resume)
    clock = Clock(args, seconds)
    saved, loads = clock.seconds(), 0
    while clock.progress(step) < 1:
        progress = clock.progress(step)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, progress, args)
        losses, used = train_step(
            model, optimizer, training_batch(data, rng, progress, args), args)
        loads = 0.98 * loads + used
        step += 1
        seconds = clock.seconds()
        if step % args.every == 0:
            row = {"step": step, "seconds": round(seconds), **losses}
            report(model, batches, row, curve, args)
        if step % args.revive == 0 and progress < 1 - args.cooldown:
            count = revive(model, optimizer, loads, args)
            print(f"step {step}: revived {count} experts", flush=True)
        if args.early and seconds - saved > args.early_seconds:
            checkpoint(model, optimizer, rng, step, seconds, curve, args)
            saved = seconds
    report(model, batches, {"step": step, "seconds": round(seconds)},
           curve, args)


def parse_args():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--corpus", required=True, help="folder from corpus.py")
    p.add_argument("--out", required=True, help="folder for the HF model")
    p.add_argument("--curve", default="training.json")
    p.add_argument("--early", help="folder for checkpoints on the way")
    p.add_argument("--early-seconds", type=float, default=300)
    p.add_argument("--minutes", type=float, default=45,
                   help="budget of wall clock, unless --steps is given")
    p.add_argument("--steps", type=int, default=0)
    p.add_argument("--resume", help="state.pt of a folder given to --early")
    p.add_argument("--tokens", type=int, default=4096, help="per step")
    p.add_argument("--short", type=int, default=256,
                   help="length of sequences at first")
    p.add_argument("--length", type=int, default=512, help="and later")
    p.add_argument("--short-part", type=float, default=0.8,
                   help="part of the budget on short sequences")
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--decay", type=float, default=0.05)
    p.add_argument("--warmup", type=int, default=100)
    p.add_argument("--cooldown", type=float, default=0.3)
    p.add_argument("--balance", type=float, default=0.12)
    p.add_argument("--locality", type=float, default=0.03)
    p.add_argument("--revive", type=int, default=200,
                   help="look for unused experts every so many steps")
    p.add_argument("--dead", type=float, default=0.05,
                   help="load under which an expert is unused, over mean")
    p.add_argument("--every", type=int, default=100)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--bf16", action="store_true",
                   help="bf16 products (weights and sums stay f32)")
    return p.parse_args()


def main():
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    # Two lengths only: a compiled version of each beats a dynamic one.
    torch._dynamo.config.automatic_dynamic_shapes = False
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    model = Model(Config(), dtype)
    run(model, make_optimizer(model, args), args)
    export(model, args.out)


if __name__ == "__main__":
    main()
