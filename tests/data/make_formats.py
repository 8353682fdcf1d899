#!/usr/bin/env python3
"""Quantise a matrix with other people's code, for tests/test_quantise.c.

Needs numpy, gguf (q8_0, q4_0, q4_1), torch (float8_e4m3fn) and torchao
(mxfp4); the result is committed, so a build and its tests need none of them.
"""
import argparse

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf import quants
from torchao.prototype.mx_formats.mx_tensor import MXTensor

ROWS, COLUMNS = 136, 160  # ragged for blocks of 128 and for panels of 16
DECODED = 24  # rows whose values are kept decoded


def matrix(rng):
    """Random rows of many sizes, and some that are easy to get wrong."""
    size = 2.0 ** rng.uniform(-12, 6, (ROWS, 1))
    x = (rng.standard_normal((ROWS, COLUMNS)) * size).astype(np.float32)
    x[0] = 0
    x[1] = 3.25
    x[2] = np.tile(np.arange(-16, 16) / 4, COLUMNS // 32)  # ties in e2m1
    x[3] = np.tile(np.arange(32) * 8.0 + 8, COLUMNS // 32)  # all positive
    x[4] *= 1e-6  # scales are subnormal in f16
    x[5, ::2] = -0.0
    x[6] = np.tile([7, -7, 3.5, 0.5, -0.5, 1, 6, -6], COLUMNS // 8)
    return x


def fp8(x):
    """DeepSeek-V3: w = q * scale_inv of each 128 x 128 block."""
    w, codes = torch.tensor(x), torch.empty(x.shape, dtype=torch.uint8)
    scales = torch.empty((ROWS + 127) // 128, (COLUMNS + 127) // 128)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            at = np.s_[128 * i:128 * i + 128, 128 * j:128 * j + 128]
            scales[i, j] = w[at].abs().max() / 448
            q = (w[at] / scales[i, j]).to(torch.float8_e4m3fn)
            codes[at] = q.view(torch.uint8)
    values = codes[:DECODED].view(torch.float8_e4m3fn).float()
    values *= scales[0].repeat_interleave(128)[:COLUMNS]
    return codes.numpy(), scales.numpy(), values.numpy()


def mxfp4(x):
    """Two codes a byte, the earlier one in the low half; e8m0 scales."""
    packed = MXTensor.to_mx(torch.tensor(x), torch.float4_e2m1fn_x2, 32)
    return (packed.qdata.view(torch.uint8).numpy(),
            packed.scale.view(torch.uint8).numpy(),
            packed.dequantize(torch.float32)[:DECODED].numpy())


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--out", required=True, help="tests/data/formats.npz")
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    x = matrix(np.random.default_rng(args.seed))
    arrays = {"values": x}
    for name, kind in (("q8_0", Type.Q8_0), ("q4_0", Type.Q4_0),
                       ("q4_1", Type.Q4_1)):
        arrays[name] = quants.quantize(x, kind)
        arrays[name + "_values"] = quants.dequantize(arrays[name][:DECODED],
                                                     kind)
    arrays["fp8"], arrays["fp8_scales"], arrays["fp8_values"] = fp8(x)
    arrays["mxfp4"], arrays["mxfp4_scales"], arrays["mxfp4_values"] = mxfp4(x)
    np.savez_compressed(args.out, **arrays)
    for name, array in arrays.items():
        print(name, array.dtype, array.shape)


if __name__ == "__main__":
    main()
