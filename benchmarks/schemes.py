# schemes.py - build a scheme, with boundaries decided by integers.
# SPDX-License-Identifier: BSD-3-Clause
import pickle

import t5bucket as tb


class Build:
    """A new scheme, which is not in the cache."""

    param_names = ("num_buckets", "max_distance", "bidirectional")
    params = ([32, 320, 1024], [128, 1_000, 100_000], [True, False])

    def setup(self, num_buckets: int, max_distance: int, bidirectional: bool) -> None:
        if max_distance <= num_buckets // (4 if bidirectional else 2):
            raise NotImplementedError("no such scheme")
        self.max_distance = max_distance

    def time_build(self, num_buckets: int, max_distance: int, bidirectional: bool) -> None:
        self.max_distance += 1
        tb.Buckets(num_buckets, self.max_distance, bidirectional)


class Reuse:
    """A scheme that already exists, as in every later call and every worker process."""

    def setup(self) -> None:
        self.pickled = pickle.dumps(tb.Buckets(32, 128))

    def time_construct(self) -> None:
        tb.Buckets(32, 128)

    def time_unpickle(self) -> None:
        pickle.loads(self.pickled)
