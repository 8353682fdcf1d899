#!/usr/bin/env python3
"""What each type of experts' weights, and each way to compute with them, does
to the logits of held-out text; needs numpy and a built coterie."""
import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

DTYPES = ("f32 f16 bf16 int8 int8-group int4 int4-zero fp8 mxfp4").split()
COMPUTES = ("f32", "bf16", "int8")
LENGTH, PER_FILE, NEW_TOKENS = 200, 4, 32
HERE = Path(__file__).parent


def prompts():
    """Stretches of every held-out text."""
    for file in sorted(HERE.glob("text/held-*.txt")):
        text = file.read_text().replace("\n", " ")
        for i in range(PER_FILE):
            yield text[3000 * i:3000 * i + LENGTH]


def run(args, model, folder, compute):
    """Logits of every prompt's positions, and the texts; None if refused."""
    logits = folder / "logits.npy"
    done = subprocess.run(
        [args.coterie, "run", model, "--prompt-lines", folder / "prompts",
         "--tokens", str(NEW_TOKENS), "--logits", logits, "--force", "--json",
         "--compute", compute], capture_output=True, text=True)
    if done.returncode != 0:
        return None
    tokens = [s["tokens"] for s in json.loads(done.stdout)["sequences"]]
    rows = np.load(logits).astype(np.float64)
    lengths = [len(p.encode()) for p in prompts()]
    kept, at = [], 0
    for length in lengths:
        kept.append(rows[at:at + length])
        at += length + NEW_TOKENS - 1
    return np.concatenate(kept), tokens


def log_softmax(x):
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def compare(right, found):
    (a, texts), (b, others) = right, found
    rms = np.sqrt(((a - b) ** 2).mean() / (a ** 2).mean())
    p, q = log_softmax(a), log_softmax(b)
    divergence = (np.exp(p) * (p - q)).sum(1).mean()
    same = sum(x == y for x, y in zip(texts, others))
    top = (a.argmax(1) == b.argmax(1)).mean()
    return f"{rms:.1e} | {divergence:.1e} | {top:.4f} | {same}/{len(texts)}"


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--coterie", default="coterie", help="the command")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "prompts").write_text("\n".join(prompts()) + "\n")
        right = run(args, HERE, folder, "f32")
        print("| dtype | compute | logits | divergence | likeliest | texts |")
        for dtype in DTYPES:
            store = folder / "store"
            subprocess.run([args.coterie, "pack", HERE, "--dtype", dtype,
                            "-o", store, "--force"], check=True,
                           capture_output=True)
            for compute in COMPUTES:
                found = run(args, store, folder, compute)
                if found is not None:
                    print(f"| `{dtype}` | {compute} | {compare(right, found)} "
                          "|", flush=True)


if __name__ == "__main__":
    main()
