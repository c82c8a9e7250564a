# oracle.py - T5's definition by integer arithmetic alone; imports nothing from the package.
# SPDX-License-Identifier: BSD-3-Clause


def bucket(relative_position: int, num_buckets: int, max_distance: int, bidirectional: bool) -> int:
    """Bucket of one relative position: ``n`` is in ``e + k`` or above iff n^m e^k >= D^k e^m."""
    count = num_buckets // 2 if bidirectional else num_buckets
    n = abs(relative_position) if bidirectional else max(-relative_position, 0)
    base = count if bidirectional and relative_position > 0 else 0
    e = count // 2
    m = count - e
    if n < e:
        return base + n
    n_to_m, e_to_m = n**m, e**m
    passed: int = sum(n_to_m * e**k >= max_distance**k * e_to_m for k in range(1, m))
    return base + e + passed
