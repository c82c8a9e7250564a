# _registry.py - which class of transformers has which replacements.
# SPDX-License-Identifier: BSD-3-Clause
"""A family of models is one module, and one line here.

To add a family, write a module with a dictionary `LAYERS` and add its name below.
``_mpnet.py`` is a short example. The dictionary maps ``"package.Class"``, a class in
``transformers.models.package.modeling_package``, to a `Layer`.

- A replacement takes the original method, then that method's own parameters with the same
  names and defaults. Otherwise `accelerate` leaves the method as it is. One for the parameters
  of an older version is added by `for_older` (``_older.py``).
- A replacement in `Layer.biases` raises `NotCoveredError` where it does not cover a call,
  before it changes anything. Then the original runs.
- One in `Layer.inexact` does the same, but comes first if ``exact=False``; its original is
  what runs if ``exact=True``. It may give results that are equal up to rounding.
- `Layer.attend` always runs the original, with a bias that is cheaper to use.
- Rules are tabulated from the model's own function (``_rules.py``), so that they are right
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
