"""The benchmarks that a study can be run on."""
