"""Metrics: per-row scores, so that every metric has an interval and two models are compared row by row."""
