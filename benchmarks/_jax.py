# _jax.py - t5bucket's bias in JAX compared with T5X's formula, both compiled.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import t5bucket as tb
from benchmarks import _methods
from benchmarks._peers import import_jax, t5x_buckets
from t5bucket.cli._measure import Call, Result, Row
from t5bucket.cli.bench import MAX_DISTANCE, NUM_BUCKETS, NUM_HEADS, make_weight

IMPLEMENTATIONS = ["t5bucket", "T5X's formula"]
TASKS = ["bias", "gradient", "scores + bias"]
# Without this, glibc gives other threads than the first memory that it does not keep.
KEEPING = {**_methods.KEEPING, "MALLOC_ARENA_MAX": "1"}
LEGEND = f"""\
rows of JAX:
  T5X's formula  one-hot buckets of float32 logarithms, times the weight
  scores + bias  in the memory of the scores
  kept           with an allocator that keeps memory:
                 {" ".join(f"{name}={value}" for name, value in KEEPING.items())}
Both are compiled. Each row has a process of its own; times are medians of calls in turn."""


def t5x_bias(weight: Any, query_length: int, key_length: int) -> Any:
    """Compute the bias as T5X does: a weight (num_heads, num_buckets) times one-hot buckets."""
    jax, jnp = import_jax()
    relative = np.arange(key_length, dtype=np.int32)[None, :] - np.arange(query_length)[:, None]
    kinds = jax.lax.broadcasted_iota(np.int32, (NUM_BUCKETS, 1, 1), 0)
    one_hot = jnp.array(t5x_buckets(relative, np)[None] == kinds, weight.dtype)
    return jax.lax.dot_general(weight, one_hot, (((1,), (0,)), ((), ())))


def bias_function(implementation: str, length: int) -> Callable[[Any], Any]:
    """Return the bias as a function of a weight (num_heads, num_buckets)."""
    if implementation != "t5bucket":
        return lambda weight: t5x_bias(weight, length, length)
    from t5bucket.jax import compute_bias

    buckets = tb.Buckets(NUM_BUCKETS, MAX_DISTANCE)
    return lambda weight: compute_bias(weight, length, length, buckets=buckets, heads_first=True)


def prepare(implementation: str, task: str = "bias", length: int = 2048) -> Call:
    """Compile a task; return a call that waits for its result."""
    jax, jnp = import_jax()
    compute = bias_function(implementation, length)
    weight = jnp.asarray(make_weight(np.dtype(np.float32)).T)
    if task == "bias":
        compiled = jax.jit(compute)
        return lambda: compiled(weight).block_until_ready()
    matrix = jnp.ones((NUM_HEADS, length, length), np.float32)
    if task == "gradient":
        compiled = jax.jit(lambda gradient: jax.vjp(compute, weight)[1](gradient)[0])
        return lambda: compiled(matrix).block_until_ready()
    compiled = jax.jit(lambda scores, weight: scores + compute(weight), donate_argnums=0)
    scores = [matrix]

    def add() -> None:
        scores.append(compiled(scores.pop(), weight).block_until_ready())

    return add


def compare(task: str, length: int) -> Result:
    """Time both in turn, in this process."""
    ours, theirs = (prepare(implementation, task, length) for implementation in IMPLEMENTATIONS)
    ours()
    theirs()
    return _methods.compare_medians(ours, theirs, _methods.MIN_ROUNDS)


def make_row(task: str, at_most: float, allocator: str = "", length: int = 2048) -> Row:
    """Make a row of the report, with the default allocator or one that keeps memory."""

    def measure() -> Result:
        import_jax()
        environment = KEEPING if allocator else {}
        return Result(*_methods.run_in_process(compare, task, length, environment=environment))

    name = f"JAX {task} {NUM_HEADS} x {length} x {length}{allocator}"
    return Row(name, IMPLEMENTATIONS[1], at_most, measure)


ROWS = (
    # New memory means 200 MB of page faults, which no implementation can avoid.
    make_row("bias", 0.35),
    make_row("bias", 0.2, ", kept"),
    make_row("gradient", 0.2),
    make_row("gradient", 0.2, ", kept"),
    make_row("scores + bias", 0.15),
)
