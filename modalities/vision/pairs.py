"""Images and captions in one space: what stands above a locked image tower, beside a tower of words."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize

from modalities.vision.model import VisionBase
from modalities.vision.word_tower import text_tower

HOTTEST = 100.0
"""Similarities are multiplied by at most this."""


class Pairs(nn.Module):
    """Two towers' ends, and how sharply they are compared. The image tower itself is no part of it.

    Attributes:
        text: Tokens to vectors.
        project: Features to vectors: frozen where the towers were trained together, else tuned, in float32.
        scale: Logarithm of what similarities are multiplied by, at most log `HOTTEST`.
    """

    def __init__(self, base: VisionBase) -> None:
        super().__init__()
        self.text = text_tower(base.clip)
        self.project: Any = base.tower.project
        if not base.config.zero_shot:
            self.project = nn.Linear(base.tower.width, base.clip.text.output_dim).to(base.device)
        self.scale = nn.Parameter(base.clip.logit_scale.detach().float().reshape(()).clone())

    def images(self, features: Tensor) -> Tensor:
        """Vectors of unit length `[images, space]` of features `[images, width]`."""
        kind = next((weight.dtype for weight in self.project.parameters()), features.dtype)
        return normalize(self.project(features.to(kind)).float(), dim=-1)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Logits `[images, texts]`."""
        texts = normalize(self.text(tokens).float(), dim=-1)
        return self.images(features) @ texts.T * self.scale.clamp(max=math.log(HOTTEST)).exp()


def pair_loss(logits: Tensor, partners: Tensor) -> Tensor:
    """Symmetric InfoNCE, summed over the pairs (van den Oord et al. 2018; Radford et al. 2021).

    An image may have several captions in a batch, and a caption several images: all of them count as right, so that
    none is pushed away from its own (Yang et al. 2022, https://arxiv.org/abs/2204.03610).

    Args:
        logits: `[pairs, pairs]`, images by captions.
        partners: `[pairs, pairs]`, whether a caption belongs to an image.
    """
    share = partners.float()
    found: list[Tensor] = []
    for each, right in ((logits, share), (logits.T, share.T)):
        found.append(-(log_softmax(each, dim=1) * right / right.sum(dim=1, keepdim=True)).sum())
    return torch.stack(found).mean()
