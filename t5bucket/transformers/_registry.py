# _registry.py - the replacements for each class of transformers.
# SPDX-License-Identifier: BSD-3-Clause
"""To add a family of models, write one module, and one line here.

The module has a dictionary `LAYERS`; its name is added below. ``_mpnet.py`` is a short
example. The dictionary maps ``"package.Class"``, a class in
``transformers.models.package.modeling_package``, to a `Layer`.

- A replacement takes the original method, then that method's own parameters with the same
  names and defaults. Otherwise `accelerate` leaves the method as it is. `for_older`
  (``_older.py``) adds a replacement with the parameters of an older version.
- A replacement in `Layer.biases` raises `NotCoveredError` where it does not cover a call,
  before it changes anything. Then the original runs.
- A replacement in `Layer.inexact` does the same, but is tried first if ``exact=False``. Its
  original is the method that runs if ``exact=True``. Its results may differ by rounding.
- `Layer.attend` always runs the original, but with a bias that is faster to use.
- Rules are tabulated by calling the model's own function (``_rules.py``), so they are right
  for every version of transformers.
"""

from __future__ import annotations

from importlib import import_module

from t5bucket.transformers._layer import Layer

FAMILIES = [
    import_module(f"t5bucket.transformers.{name}")
    for name in (
        "_cpmant",
        "_layoutlm",
        "_longt5",
        "_mpnet",
        "_prophetnet",
        "_t5",
        "_udop",
        "_wavlm",
    )
]

LAYERS: dict[str, Layer] = {
    name: layer for family in FAMILIES for name, layer in family.LAYERS.items()
}
