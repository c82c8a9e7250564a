# __init__.py - benchmarks; each module is a task of users, with peers as parameters.
# SPDX-License-Identifier: BSD-3-Clause
