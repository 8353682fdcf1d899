#!/usr/bin/env python3
"""Continue a prompt with the example model, through transformers."""
import argparse
import os

import torch
from transformers import Qwen3MoeForCausalLM


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--model",
                   default=os.path.dirname(os.path.abspath(__file__)))
    p.add_argument("--bytes", type=int, default=200)
    p.add_argument("--temperature", type=float, default=0.6)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("prompt", nargs="+")
    args = p.parse_args()
    model = Qwen3MoeForCausalLM.from_pretrained(
        args.model, dtype=torch.float32).eval()
    for prompt in args.prompt:
        torch.manual_seed(args.seed)
        ids = torch.tensor([list(prompt.encode())])
        out = model.generate(ids, attention_mask=torch.ones_like(ids),
                             do_sample=True, temperature=args.temperature,
                             top_k=0, max_new_tokens=args.bytes,
                             pad_token_id=0)
        print(bytes(out[0].tolist()).decode("latin-1"), end="\n\n")


if __name__ == "__main__":
    main()
