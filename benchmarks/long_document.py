# long_document.py - encode a long document with t5-small, without a bias matrix.
# SPDX-License-Identifier: BSD-3-Clause
"""Encode 32,768 tokens, and report the time and the growth of peak memory.

    python benchmarks/long_document.py

The model has the size of t5-small and random weights. Needs the extra ``transformers``.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path


def main() -> None:
    """Encode once, after a short document, which loads what each call needs."""
    import torch
    from transformers import T5Config, T5EncoderModel

    from t5bucket.transformers import accelerate

    sys.path.append(str(Path(__file__).parents[1]))  # last: the installed package is measured
    from benchmarks._methods import peak_nbytes

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--length", type=int, default=32_768, help="tokens of the document")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    encoder = accelerate(T5EncoderModel(T5Config()).eval().to(dtype))  # of t5-small's size
    document = torch.randint(3, 999, (1, options.length))
    with torch.no_grad():
        encoder(document[:, :256])
        before, begin = peak_nbytes(reset=True), time.perf_counter()
        encoder(document)
    seconds, grown = time.perf_counter() - begin, peak_nbytes() - before
    matrix = encoder.config.num_heads * options.length**2 * dtype.itemsize
    print(f"t5-small, 1 x {options.length} {options.dtype}: {seconds:.1f} s;", end=" ")
    print(f"the peak of memory grew by {grown / 1e6:.0f} MB;", end=" ")
    print(f"one matrix of its bias would take {matrix / 1e9:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
