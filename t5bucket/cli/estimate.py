# estimate.py - t5bucket estimate: does it help this model, at this length?
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from t5bucket._weights.hub import parse_name
from t5bucket.cli._measure import show_seconds
from t5bucket.cli._options import UsageError, add_json_option, integer, print_fields, print_json
from t5bucket.cli._terminal import is_terminal, progress

EPILOG = """\
The model is loaded by transformers' AutoModel and runs on random tokens. Of a model with an
encoder and a decoder, the encoder runs. The first call is not timed: it makes the tables that
later calls share.

examples:
  t5bucket estimate google-t5/t5-small --length 2048
  t5bucket estimate model/ --length 512 --batch 8 --padding 0.3 --inexact"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "estimate",
        help="measure your own model with and without t5bucket",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure a model of transformers on this machine, at a length, with and\n"
        "without t5bucket; say whether its outputs have the same bits.",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="the folder of a model, or its name on Hugging Face's hub")
    add(
        "--length", type=integer(1), default=512, metavar="N", help="tokens of a row (default: 512)"
    )
    add("--batch", type=integer(1), default=1, metavar="N", help="rows (default: 1)")
    add(
        "--padding",
        type=float,
        default=0.0,
        metavar="PART",
        help="part of each row that is padding, from 0 to less than 1 (default: 0)",
    )
    add("--repeats", type=integer(1), default=5, metavar="N", help="timed calls (default: 5)")
    add(
        "--dtype",
        choices=("float16", "bfloat16", "float32"),
        help="of the weights (default: the checkpoint's)",
    )
    add("--inexact", action="store_true", help="allow outputs that are equal up to rounding")
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Load, measure and describe a model."""
    from t5bucket.transformers import make_task
    from t5bucket.transformers._estimate import run_task

    try:
        task = make_task(
            options.length, options.batch, options.padding, options.repeats, not options.inexact
        )
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    model = load(options.model, options.dtype)
    with progress(task.num_calls, "measuring", "call") as report:
        found = run_task(model, task, report)
    if options.json:
        print_json(
            {
                "model": options.model,
                **task._asdict(),
                "part": found.part,
                "dtype": str(model.dtype).removeprefix("torch."),
                "transformers_seconds": found.transformers,
                "t5bucket_seconds": found.t5bucket,
                "ratio": found.ratio,
                "same_bits": found.same_bits,
            }
        )
        return
    padded = f", {task.padding:.0%} of them padding" if task.padding else ""
    print_fields(
        {
            "model": f"{options.model}: {found.part}, {str(model.dtype).removeprefix('torch.')}",
            "input": f"{task.batch} x {task.length} tokens{padded}",
            "transformers": show_seconds(found.transformers),
            "t5bucket": show_seconds(found.t5bucket),
            "ratio": f"{found.ratio:.3f}, {show_ratio(found.ratio)}",
            "outputs": "have the same bits" if found.same_bits else "differ in some bits",
        }
    )


def load(name: str, dtype: str | None) -> Any:
    """Load a model, without running code that comes with it."""
    import huggingface_hub
    import transformers

    if not Path(name).exists() and parse_name(name) is None:
        raise ValueError(f"MODEL must be a folder or the name of a model, got {name}")
    huggingface_hub.utils.logging.set_verbosity_error()
    if not is_terminal(sys.stderr):
        transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    options = {} if dtype is None else {"dtype": dtype}
    try:
        return transformers.AutoModel.from_pretrained(name, trust_remote_code=False, **options)
    except Exception as error:  # whatever loading and the hub raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"MODEL must be a folder or a name that transformers' AutoModel loads, got {name} "
            f"({type(error).__name__}: {reason})"
        ) from error


def show_ratio(ratio: float) -> str:
    """Say what a ratio means."""
    if 0.95 < ratio < 1.05:
        return "about the same"
    return f"{1 / ratio:.2g} x faster" if ratio < 1 else f"{ratio:.2g} x slower"
