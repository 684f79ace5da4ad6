"""Metrics as scores of single rows.

So every metric has an interval, and two models are compared row by row.
"""
