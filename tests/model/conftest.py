"""Tests of the model run on one thread: their tensors are small."""

import torch

torch.set_num_threads(1)
