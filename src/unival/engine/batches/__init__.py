"""From the rows of many tasks to the tensors of one step: read mixture, sampler, collate, loader."""
