"""From the rows of many tasks to the tensors of one step.

Read rows, mixture, sampler, views, builder, collate, loader in this order.
"""
