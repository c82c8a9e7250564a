# conftest.py - settings of every test.
# SPDX-License-Identifier: BSD-3-Clause
import os

from hypothesis import settings

# Processes that tests start import the installed package, not the source tree they stand in.
os.environ["PYTHONSAFEPATH"] = "1"

# For tools/emulate.py, where all takes ten times as long or more.
settings.register_profile("emulation", max_examples=5, deadline=None)
