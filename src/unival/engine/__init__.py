"""Training and evaluation, whatever the task: read mixture, sampler, collate, optim,
checkpoint, train in this order.

The engine knows neither MLflow, Hydra nor DVC; what wants to follow a run is a callback.
"""
