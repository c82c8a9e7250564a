# estimate.py - t5bucket estimate: does it help this model, at this length?
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t5bucket._checks import first_line
from t5bucket._weights.folder import CONFIG_NAME
from t5bucket._weights.hub import CachedModel, parse_name
from t5bucket.cli._measure import show_seconds
from t5bucket.cli._options import (
    UsageError,
    add_json_option,
    announce_hub,
    integer,
    print_fields,
    print_json,
)
from t5bucket.cli._terminal import is_terminal, progress

if TYPE_CHECKING:
    from t5bucket.transformers import Estimate

EPILOG = """\
The model is loaded by the class that its configuration names, such as T5EncoderModel, or by
transformers' AutoModel. It runs on random tokens. Of a model with an encoder and a decoder, the
encoder runs. The first call is not timed: it makes the tables that later calls share.

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
                "transformers_range_seconds": found.transformers_range,
                "t5bucket_range_seconds": found.t5bucket_range,
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
            "transformers": show_time(found.transformers, found.transformers_range),
            "t5bucket": show_time(found.t5bucket, found.t5bucket_range),
            "ratio": f"{found.ratio:.3f}, {show_ratio(found)}",
            "outputs": "have the same bits" if found.same_bits else "differ in some bits",
        }
    )


def load(name: str, dtype: str | None) -> Any:
    """Load a model, without running code that comes with it."""
    import huggingface_hub
    import transformers

    if not Path(name).exists():
        parsed = parse_name(name)
        if parsed is None:
            raise ValueError(f"MODEL must be a folder or the name of a model, got {name}")
        announce_hub(name)
        try:
            CachedModel(parsed.repository, parsed.part).find(CONFIG_NAME)
        except OSError as error:
            reason = str(error).partition("; buckets=")[0].replace("name_or_path", "MODEL", 1)
            raise OSError(reason) from error
    huggingface_hub.utils.logging.set_verbosity_error()
    if not is_terminal(sys.stderr):
        transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    options = {} if dtype is None else {"dtype": dtype}
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        return find_class(config).from_pretrained(name, trust_remote_code=False, **options)
    except Exception as error:  # loading and the hub may raise anything
        raise ValueError(
            f"MODEL must be a folder or a name that transformers loads, got {name} "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error


def find_class(config: Any) -> Any:
    """Find the class that a configuration names; `AutoModel` if transformers has none of it."""
    import transformers

    for name in getattr(config, "architectures", None) or []:
        found = getattr(transformers, str(name), None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    return transformers.AutoModel


def show_time(seconds: float, limits: tuple[float, float] | None) -> str:
    """Show a median and the range that it is of."""
    return f"{show_seconds(seconds)} ({' to '.join(map(show_seconds, limits or ()))})"


def show_ratio(found: Estimate) -> str:
    """Say what a ratio means."""
    ratio = found.ratio
    if found.is_within_noise:
        return "no difference beyond noise: the ranges overlap"
    if 0.95 < ratio < 1.05:
        return "about the same"
    return f"{1 / ratio:.2g} x faster" if ratio < 1 else f"{ratio:.2g} x slower"
