#!/usr/bin/env python3
"""What the router learned, in numbers that matter to placement.

Routes text through the exported model, places experts by annealing on one
half of the sequences and counts copies on the other half.
"""
import argparse
import json
import math
import os

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from corpus import KINDS
from model import Config, Model, load_hf
from train import windows


def sequences(folder, split, length, count):
    for kind in KINDS:
        data = np.fromfile(os.path.join(folder, f"{kind}.{split}"), np.uint8)
        starts = np.linspace(0, len(data) - length - 2, count).astype(int)
        yield kind, windows(data, starts, length)


@torch.no_grad()
def trace(model, ids):
    """Expert ids [sequence, token, layer, k], and bits per byte."""
    chosen, bits = [], []
    for part in ids.split(8):
        logits, routes = model(part[:, :-1])
        bits.append(F.cross_entropy(logits.flatten(0, 1),
                                    part[:, 1:].flatten()) / math.log(2))
        chosen.append(torch.stack([c.view(*part[:, 1:].shape, -1)
                                   for _, c in routes], 2))
    return torch.cat(chosen).numpy(), float(sum(bits) / len(bits))


def tokens_of(seqs):
    return np.concatenate(seqs).reshape(-1, *seqs[0].shape[-2:])


def pair_counts(tokens, experts):
    """Choices made together in a layer, and by one layer and the next."""
    n, layers, k = tokens.shape
    hot = np.zeros((n, layers, experts), np.float32)
    np.put_along_axis(hot, tokens, 1, 2)
    same = np.einsum("nle,nlf->lef", hot, hot, optimize=True) / n
    nxt = np.stack([hot[:, i].T @ hot[:, i + 1]
                    for i in range(layers - 1)]) / n
    return hot.mean(0), same, nxt


def cost(place, load, same, nxt, ranks, cap):
    """Expected separated pairs, and a wall at the load cap."""
    total = 0.0
    for i, p in enumerate(place):
        apart = p[:, None] != p[None, :]
        total += (same[i] * apart).sum()
        if i + 1 < len(place):
            total += (nxt[i] * (p[:, None] != place[i + 1][None, :])).sum()
        shares = np.bincount(p, load[i], ranks) * ranks / load[i].sum()
        total += 20 * max(0.0, shares.max() - cap)
    return total


def anneal(load, same, nxt, ranks, cap, rng, moves=40000):
    layers, experts = load.shape
    place = [np.arange(experts) % ranks for _ in range(layers)]
    for p in place:
        rng.shuffle(p)
    now = cost(place, load, same, nxt, ranks, cap)
    for move in range(moves):
        heat = 0.3 * (1 - move / moves) ** 2 + 1e-4
        i = int(rng.integers(layers))
        a, b = rng.integers(experts, size=2)
        if place[i][a] == place[i][b]:
            continue
        lo, hi = max(0, i - 1), min(layers, i + 2)
        args = (load[lo:hi], same[lo:hi], nxt[lo:hi - 1], ranks, cap)
        old = cost(place[lo:hi], *args)
        place[i][a], place[i][b] = place[i][b], place[i][a]
        delta = cost(place[lo:hi], *args) - old
        if delta > 0 and rng.random() > math.exp(-delta / heat):
            place[i][a], place[i][b] = place[i][b], place[i][a]
        else:
            now += delta
    return np.stack(place), now


def best_of(tries, *args, seed=1):
    runs = [anneal(*args, np.random.default_rng(seed + i))
            for i in range(tries)]
    return min(runs, key=lambda r: r[1])[0]


def rank_sets(place, tokens, ranks):
    """[token, layer, rank] is true where a rank holds a chosen expert."""
    layers = np.arange(tokens.shape[1])[None, :, None]
    where = place[layers, tokens]
    sets = np.zeros((*tokens.shape[:2], ranks), bool)
    np.put_along_axis(sets, where, True, 2)
    return sets


def next_scores(place, nxt, ranks):
    """Per layer, expert and rank: choices that the next layer makes there."""
    return np.stack([
        np.stack([n[:, p == r].sum(1) for r in range(ranks)], 1)
        for n, p in zip(nxt, place[1:])])


def copies(place, tokens, home, scores, ranks):
    """Copies per token and layer in the three modes."""
    sets = rank_sets(place, tokens, ranks)
    n, layers, _ = sets.shape
    size = sets.sum(2)
    at = np.arange(n)
    at_home = sets[at[:, None], np.arange(layers)[None], home[:, None]]
    two = 2 * (size - at_home)
    owner, sent = home, 0
    for i in range(layers):
        sent += (size[:, i] - sets[at, i, owner]) + size[:, i] - 1
        if i + 1 < layers:
            score = scores[i][tokens[:, i]].sum(1)
            owner = np.where(sets[:, i], score, -1).argmax(1)
    forward = (size - at_home)[:, 0].sum()
    for i in range(layers - 1):
        both = (sets[:, i] & sets[:, i + 1]).sum(1)
        forward += (size[:, i] * size[:, i + 1] - both).sum()
    each = n * layers
    return {"two_phase": two.sum() / each, "owner": sent.sum() / each,
            "forward": forward / each, "fan_out": size.mean()}


def top_successors(nxt, share):
    """Share of an expert's next-layer choices held by its best few."""
    best = np.sort(nxt, 2)[:, :, ::-1]
    count = int(share * nxt.shape[2])
    return best[:, :, :count].sum() / nxt.sum()


def measure(by_kind, ranks, cap, tries, experts):
    half = [[], []]
    for traces in by_kind.values():
        half[0].append(traces[::2])
        half[1].append(traces[1::2])
    placing, held = tokens_of(half[0]), tokens_of(half[1])
    count = sum(len(x) for x in half[1])
    home = np.repeat(np.arange(count) % ranks, len(held) // count)
    load, same, nxt = pair_counts(placing, experts)
    for s in same:
        np.fill_diagonal(s, 0)
    order = np.tile(np.arange(experts) * ranks // experts, (len(load), 1))
    place = best_of(tries, load, same, nxt, ranks, cap)
    plain = copies(order, held, home, next_scores(order, nxt, ranks), ranks)
    placed = copies(place, held, home, next_scores(place, nxt, ranks), ranks)
    held_load, _, held_next = pair_counts(held, experts)
    shares = [np.bincount(p, w, ranks).max() * ranks / w.sum()
              for p, w in zip(place, held_load)]
    base = plain["two_phase"]
    return {
        "in_order": plain, "placed": placed,
        "owner_ratio": placed["owner"] / base,
        "forward_ratio": placed["forward"] / base,
        "two_phase_ratio": placed["two_phase"] / base,
        "rank_load_max": shares,
        "expert_load_max": (held_load.max(1) / held_load.mean(1)).tolist(),
        "expert_load_min": (held_load.min(1) / held_load.mean(1)).tolist(),
        "top_quarter_successors": float(top_successors(held_next, 0.25))}


def rounded(value):
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return round(float(value), 3)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", required=True, help="folder in HF form")
    p.add_argument("--corpus", required=True, help="folder from corpus.py")
    p.add_argument("--split", default="held")
    p.add_argument("--ranks", type=int, default=4)
    p.add_argument("--cap", type=float, default=1.1,
                   help="most load of a rank, over the mean, when placing")
    p.add_argument("--length", type=int, default=512)
    p.add_argument("--sequences", type=int, default=32, help="per kind")
    p.add_argument("--tries", type=int, default=2)
    args = p.parse_args()
    torch.set_num_threads(1)
    model = Model(Config())
    load_hf(model, load_file(os.path.join(args.model, "model.safetensors")))
    by_kind, bits = {}, {}
    for kind, ids in sequences(args.corpus, args.split, args.length,
                               args.sequences):
        by_kind[kind], bits[kind] = trace(model, ids)
    result = {"bits_per_byte": bits,
              **measure(by_kind, args.ranks, args.cap, args.tries,
                        model.cfg.experts)}
    print(json.dumps(rounded(result), indent=1))


if __name__ == "__main__":
    main()
