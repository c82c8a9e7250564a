# package.py - the modules of the package, and the packages that each of them needs.
# SPDX-License-Identifier: BSD-3-Clause
import pkgutil
from collections.abc import Iterable, Iterator

import t5bucket as tb


def find_modules(folders: Iterable[str], package: str) -> Iterator[str]:
    """Find modules by file name: `walk_packages` would import frameworks."""
    for module in pkgutil.iter_modules(folders, f"{package}."):
        yield module.name
        if module.ispkg:
            folder = module.name.removeprefix(f"{package}.")
            yield from find_modules([f"{path}/{folder}" for path in folders], module.name)


MODULES = sorted(
    name for name in find_modules(tb.__path__, "t5bucket") if not name.endswith("__main__")
)

FRAMEWORKS = {
    name: name.split(".")[1]
    for name in MODULES
    if name.split(".")[1] in ("dask", "jax", "torch", "transformers")
}
FRAMEWORKS |= {name: "onnxscript" for name in MODULES if name.startswith("t5bucket.torch._onnx")}
