"""Real data: a reader per official format, and the two benchmarks made of it.

Reading order: `reader` (what a reader is), `formats` (files as rows), a short one such as `video`, then the
benchmarks `digits` and `photos`. Every module here registers what it holds when it is imported;
`official.yaml` says what each published set looks like and how large it is.
"""
