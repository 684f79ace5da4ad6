"""Readers of published data sets, one or more per official format.

Reading order: `reader` (what a reader is), `formats` (files as rows), a short one such as `video`. Every
module here registers what it holds when it is imported; `official.yaml` says what each published set looks
like and how large it is.
"""
