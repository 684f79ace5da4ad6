"""Data on disk and in memory: manifests, media shards, preparation, the embedded benchmark, shifts.

Reading order: `manifest` (rows), `media` (decoding), `store` (random access), `prepare` (source -> checked
folder), `sources/` (readers), `benchmarks/`, `shifts` (corruptions at evaluation).
"""
