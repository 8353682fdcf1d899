#!/usr/bin/env python3
"""The table of doc/kernels.md from what bench/kernels.sh wrote.

usage: bench/kernels_table.py kernels.jsonl"""
import json
import sys

PEERS = {"ggml": "llama.cpp", "ik": "ik_llama.cpp", "onednn": "oneDNN",
         "openblas": "OpenBLAS"}


def main():
    """Prints a table for each shape."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        lines = [json.loads(line) for line in file if line.strip()]
    for shape in dict.fromkeys(line["shape"] for line in lines):
        table([line for line in lines if line["shape"] == shape])


def table(lines):
    """A row for each type of weights, then one for each peer that has it."""
    columns = sorted({(line["threads"], line["tokens"]) for line in lines})
    head = [f"{threads} thread{'s' * (threads > 1)}, {tokens}"
            for threads, tokens in columns]
    print(f"\n| shape {lines[0]['shape']} | " + " | ".join(head) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for kind in dict.fromkeys((x["dtype"], x["compute"]) for x in lines):
        at = {(x["threads"], x["tokens"]): x for x in lines
              if (x["dtype"], x["compute"]) == kind}
        row(f"`{kind[0]}`, {kind[1]}", columns, at,
            lambda x: f"{x['gflops']:.0f} ({x['share']:.2f})")
        for key in dict.fromkeys(k for x in at.values() for k in x):
            name = key.removesuffix("_gflops")
            if name != key and name not in ("peak", "roofline"):
                row("- " + PEERS.get(name, name), columns, at,
                    lambda x, key=key: f"{x[key]:.0f}" if key in x else "")


def row(name, columns, at, cell):
    """What was not measured stays empty."""
    cells = [cell(at[c]) if c in at else "" for c in columns]
    print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
