#!/usr/bin/env python3
"""What PyTorch makes of bench/gpu's work: experts by its grouped product, by
batched products of gathered weights, and one after the other, which are the
ways that transformers has; rows to their pairs and back by index_select and
index_add. All by torch's own operations.

usage: gpu_peers.py [--device cuda|cpu] [--shape Q|M|D|S] [--tokens 1,8,4096]
                    [--runs N]

One JSON object a line, medians of runs in turns; the ways agree before anything
is timed. Exit status 77: there is no PyTorch, or it has no GPU."""

import argparse
import json
import statistics
import sys
import time

SKIPPED = 77
TURNS = 64  # choices in turns, as bench/gpu has them
REPEATS = 20
SHAPES = {  # experts, k, hidden, ffn
    "Q": ("qwen3-30b", 128, 8, 2048, 768),
    "M": ("mixtral-8x7b", 8, 2, 4096, 14336),
    "D": ("deepseek-v3", 256, 8, 7168, 2048),
    "S": ("small", 16, 4, 256, 192),
}
BATCHED_PAIRS = 64  # whose weights are gathered: beyond, only bytes grow


def whole(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("from 1")
    return value


def tokens_of(text):
    return [whole(part) for part in text.split(",")]


def arguments():
    parser = argparse.ArgumentParser(prog="gpu_peers.py")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", default="Q", choices=SHAPES)
    parser.add_argument("--tokens", default="1,8,64,4096,16384",
                        type=tokens_of)
    parser.add_argument("--runs", default=15, type=whole)
    return parser.parse_args()


def skip(why):
    print("SKIP: " + why)
    sys.exit(SKIPPED)


def torch_import(device):
    try:
        import torch
    except ImportError as error:
        skip("no PyTorch: %s" % error)
    if device.startswith("cuda") and not torch.cuda.is_available():
        skip("PyTorch has no GPU here")
    return torch


def grouped_of(torch):
    """Its grouped product [pairs, in] x [experts, in, out], or None."""
    found = getattr(torch.nn.functional, "grouped_mm", None)
    return found or getattr(torch, "_grouped_mm", None)


class Layer:
    """Weights, rows and choices in turns, and each way to compute them."""

    def __init__(self, torch, device, shape, tokens):
        self.torch, self.device, self.tokens = torch, device, tokens
        self.name, self.experts, self.k, self.hidden, self.ffn = shape
        self.grouped_mm = grouped_of(torch)
        torch.manual_seed(1)
        # [experts, in, out], as the product wants it: columns are contiguous.
        self.gate_up = self.matrix(2 * self.ffn, self.hidden)
        self.down = self.matrix(self.hidden, self.ffn)
        self.x = self.random(tokens, self.hidden)
        self.weight = torch.rand(tokens, self.k, device=device)
        scores = torch.rand(TURNS, tokens, self.experts, device=device) \
            if tokens <= 64 else None
        self.ids = [self.choose(scores, turn) for turn in range(TURNS)]

    def random(self, *size):
        values = self.torch.rand(size, device=self.device) * 2 - 1
        return values.to(self.torch.bfloat16)

    def matrix(self, out, inner):
        made = self.torch.empty(self.experts, out, inner, device=self.device,
                                dtype=self.torch.bfloat16)
        for expert in range(self.experts):
            made[expert] = self.random(out, inner) / inner ** 0.5
        return made.transpose(1, 2)

    def choose(self, scores, turn):
        if scores is None:
            drawn = self.torch.rand(self.tokens, self.experts,
                                    device=self.device)
        else:
            drawn = scores[turn]
        return drawn.topk(self.k, dim=1).indices

    def activate(self, both):
        gate, up = both.chunk(2, dim=-1)
        return self.torch.nn.functional.silu(gate) * up

    def sums(self, out, rows, weight):
        y = self.torch.zeros(self.tokens, self.hidden, device=self.device,
                             dtype=out.dtype)
        return y.index_add_(0, rows, out * weight[:, None].to(out.dtype))

    def grouped(self, turn):
        """Pairs sorted by expert; one product for all of them."""
        torch, flat = self.torch, self.ids[turn].flatten()
        order = torch.argsort(flat, stable=True)
        rows = order // self.k
        ends = torch.bincount(flat, minlength=self.experts).cumsum(0).to(
            torch.int32)
        inner = self.grouped_mm(self.x.index_select(0, rows), self.gate_up,
                                offs=ends)
        out = self.grouped_mm(self.activate(inner), self.down, offs=ends)
        return self.sums(out, rows, self.weight.flatten()[order])

    def batched(self, turn):
        """Every pair with weights of its own."""
        flat = self.ids[turn].flatten()
        rows = self.torch.arange(len(flat), device=self.device) // self.k
        x = self.x.index_select(0, rows)[:, None]
        inner = self.torch.bmm(x, self.gate_up.index_select(0, flat))
        out = self.torch.bmm(self.activate(inner),
                             self.down.index_select(0, flat))
        return self.sums(out[:, 0], rows, self.weight.flatten())

    def one_by_one(self, turn):
        """Only the experts that are chosen, which the host must know."""
        y = self.torch.zeros_like(self.x)
        for expert in self.ids[turn].unique().tolist():
            rows, j = self.torch.where(self.ids[turn] == expert)
            out = self.activate(self.x[rows] @ self.gate_up[expert])
            out = out @ self.down[expert]
            weight = self.weight[rows, j][:, None].to(out.dtype)
            y.index_add_(0, rows, out * weight)
        return y

    def permute_combine(self, turn):
        """index_select and index_add, without experts in between."""
        order = self.torch.argsort(self.ids[turn].flatten(), stable=True)
        rows = order // self.k
        parts = self.x.index_select(0, rows)
        return rows, parts

    def ways(self):
        found = {"one_by_one": self.one_by_one}
        if self.grouped_mm is not None:
            found["grouped_mm"] = self.grouped
        if self.tokens * self.k <= BATCHED_PAIRS:
            found["batched_mm"] = self.batched
        return found

    def check(self):
        want = self.one_by_one(0).float()
        for name, way in self.ways().items():
            off = (way(0).float() - want).abs().max()
            if not off <= 0.03 * want.abs().max():
                sys.exit("gpu_peers: %s differs by %g" % (name, off))


class Clock:
    def __init__(self, torch, device):
        self.torch, self.cuda = torch, device.startswith("cuda")

    def wait(self):
        if self.cuda:
            self.torch.cuda.synchronize()

    def seconds(self, work, repeats, turn):
        self.wait()
        begin = time.perf_counter()
        for i in range(repeats):
            work((turn * repeats + i) % TURNS)
        self.wait()
        return (time.perf_counter() - begin) / repeats


def select_add_of(layer):
    """What is timed apart from finding out which row goes where."""
    torch = layer.torch
    rows = [layer.permute_combine(turn)[0] for turn in range(TURNS)]
    parts = torch.zeros(layer.tokens * layer.k, layer.hidden,
                        device=layer.device)
    base = torch.zeros(layer.tokens, layer.hidden, device=layer.device)
    return {
        "index_select": lambda turn: layer.x.index_select(0, rows[turn]),
        "index_add": lambda turn: base.index_add(0, rows[turn], parts),
    }


def measure(layer, clock, runs):
    sides = dict(layer.ways(), **select_add_of(layer))
    repeats = 4 if layer.tokens > 512 else REPEATS
    taken = {name: [] for name in sides}
    for run in range(-1, runs):  # once, to get warm
        for name, work in sides.items():
            seconds = clock.seconds(work, repeats, max(run, 0))
            if run >= 0:
                taken[name].append(seconds)
    return {name: statistics.median(all) for name, all in taken.items()}


def report(torch, layer, medians, args):
    gpu = torch.cuda.get_device_name() if args.device.startswith("cuda") \
        else "none"
    best = min(layer.ways(), key=medians.get)
    line = {"gpu": gpu, "peer": "torch " + torch.__version__,
            "shape": layer.name, "tokens": layer.tokens, "runs": args.runs}
    for name, seconds in medians.items():
        line[name + "_us"] = round(1e6 * seconds, 2)
    line["best"] = best
    line["best_us"] = line[best + "_us"]
    line["select_add_us"] = round(
        1e6 * (medians["index_select"] + medians["index_add"]), 2)
    print(json.dumps(line), flush=True)


def main():
    args = arguments()
    torch = torch_import(args.device)
    clock = Clock(torch, args.device)
    for tokens in args.tokens:
        with torch.inference_mode():
            layer = Layer(torch, args.device, SHAPES[args.shape], tokens)
            layer.check()
            medians = measure(layer, clock, args.runs)
        report(torch, layer, medians, args)


if __name__ == "__main__":
    main()
