# __init__.py - the benchmarks; each module is a user's task, and its peers are parameters.
# SPDX-License-Identifier: BSD-3-Clause
