"""The data of a study: checked rows about media that are read at random.

Reading order: `manifest` (rows), `media` (decoding), `store` (random access), `prepare` (source -> checked
folder), `sources/` (readers), `benchmarks/`, `shifts` (corruptions at evaluation).
"""
