"""Real data: one file per official format, and the two benchmarks made of it.

Reading order: `reader` (what a reader is, and files read with messages), a short one such as `fsdd`, then the
benchmarks `digits` and `photos`. Every module here registers what it holds when it is imported.
"""
