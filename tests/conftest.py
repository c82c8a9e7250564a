# conftest.py - settings of every test.
# SPDX-License-Identifier: BSD-3-Clause
import os

# Processes that tests start import the installed package, not the source tree they stand in.
os.environ["PYTHONSAFEPATH"] = "1"
