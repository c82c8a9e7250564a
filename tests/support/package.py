# package.py - the modules of the package, and what each of them needs.
# SPDX-License-Identifier: BSD-3-Clause
import pkgutil

import t5bucket as tb

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(tb.__path__, "t5bucket.")
    if not module.name.endswith("__main__")
)

FRAMEWORKS = {
    "t5bucket._composite": "torch",
    "t5bucket._layers": "transformers",
    "t5bucket._tensors": "torch",
    "t5bucket.dask": "dask",
    "t5bucket.torch": "torch",
    "t5bucket.transformers": "transformers",
}
