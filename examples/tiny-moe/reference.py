#!/usr/bin/env python3
"""Compute transformers' results for the example model, independent of ours.

Weights are the saved bf16 ones upcast to f32; activations are f32 and
attention is eager.  Prompts come from held-out text; a candidate whose
greedy path comes near a tie is passed over, because there two correct
programs may differ.
"""
import argparse
import json
import os

import numpy as np
import torch
from transformers import Qwen3MoeForCausalLM

from corpus import KINDS

LENGTHS = (16, 48, 96)


def candidates(folder, kind):
    """Openings of lines and sentences of one held-out file."""
    with open(os.path.join(folder, f"held-{kind}.txt"), "rb") as f:
        text = f.read()
    starts = [0] + [i + 1 for i, c in enumerate(text) if c == 10]
    starts += [i + 2 for i in range(len(text) - 1) if text[i:i + 2] == b". "]
    rng = np.random.default_rng(len(text))
    for start in rng.permutation(starts):
        yield text[start:]


@torch.no_grad()
def greedy(model, prompt, count, gap):
    """Logits of the prompt, the greedy tokens and the least top-2 gap.

    Gives up (tokens None) once the gap falls under the one asked for.
    """
    ids, least, first = list(prompt), float("inf"), None
    for _ in range(count):
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
        first = logits if first is None else first
        top = logits[-1].topk(2)
        least = min(least, (top.values[0] - top.values[1]).item())
        if least < gap:
            return first.numpy(), None, least
        ids.append(int(top.indices[0]))
    return first.numpy(), ids[len(prompt):], least


def case(model, args, kind, length):
    for text in candidates(args.text, kind):
        prompt = text[:length]
        if len(prompt) < length or not prompt.strip():
            continue
        logits, tokens, gap = greedy(model, prompt, args.tokens, args.gap)
        if tokens is not None:
            return {"kind": kind, "prompt": prompt.decode("ascii"),
                    "greedy": tokens, "greedy_text":
                    bytes(tokens).decode("latin-1"),
                    "min_gap": round(gap, 6)}, logits
    raise SystemExit(f"no prompt of {length} bytes in {kind} keeps the gap")


def write(path, cases):
    rows = ",\n".join("  " + json.dumps(c) for c in cases)
    with open(path, "w") as f:
        f.write("[\n" + rows + "\n]\n")


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", default=here)
    p.add_argument("--text", default=os.path.join(here, "text"))
    p.add_argument("--out", default=os.path.join(here, "reference"))
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--gap", type=float, default=1e-2)
    args = p.parse_args()
    model = Qwen3MoeForCausalLM.from_pretrained(
        args.model, dtype=torch.float32, attn_implementation="eager").eval()
    os.makedirs(args.out, exist_ok=True)
    cases, arrays = [], {}
    for kind in KINDS:
        for length in LENGTHS:
            result, logits = case(model, args, kind, length)
            arrays[f"prompt_{len(cases):02d}"] = logits.astype(np.float32)
            cases.append(result)
            print(result["min_gap"], repr(result["prompt"]), "->",
                  repr(result["greedy_text"]))
    write(os.path.join(args.out, "prompts.json"), cases)
    np.savez(os.path.join(args.out, "logits.npz"), **arrays)


if __name__ == "__main__":
    main()
