"""A small shape of what a token takes."""

import torch

from serving.room import Shape

SHAPE = Shape(layers=3, kv_heads=2, head_width=4, width=6, dtype=torch.float32, device=torch.device("cpu"))
