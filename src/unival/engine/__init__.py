"""The update loop, whatever the task: read settings, objective, optim, checkpoint, train in this order.

Beside it: `batches/` (what feeds a step), `inference/` (what a model answers), `machine/` (where it runs),
`planning/` (what it will take).
The engine knows neither MLflow, Hydra nor DVC; what wants to follow a run is a callback.
"""
