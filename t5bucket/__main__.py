# __main__.py - python -m t5bucket.
# SPDX-License-Identifier: BSD-3-Clause
# PYTHON_ARGCOMPLETE_OK
import sys

from t5bucket.cli import main

sys.exit(main())
