"""The tower of words beside an image tower: as a module of its own, which of its layers LoRA adapts, and prompts."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn.functional import normalize

from modalities.text.config import top_third
from modalities.vision.attention import split_attention

CAPTION = "a photo of a {}."
"""The caption of an image that has a class and no words of its own."""
PROMPTS = (
    CAPTION,
    "a photo of the {}.",
    "a picture of a {}.",
    "a close-up photo of a {}.",
    "a blurry photo of a {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
    "a {}.",
)
"""What a class may be called: the mean of their vectors says more than any of them (Radford et al. 2021,
https://arxiv.org/abs/2103.00020, section 3.1.4)."""
_BATCH = 64


def text_tower(clip: Any) -> nn.Module:
    """The tower of words of a model of open_clip: tokens `[texts, tokens]` to `[texts, space]`.

    Its attention is split, so that low-rank parts have an effect there.
    """
    text: nn.Module = clip.text if hasattr(clip, "text") else _Words(clip)
    for block in text.modules():
        if type(block) is ResidualAttentionBlock and isinstance(block.attn, nn.MultiheadAttention):
            block.attn = split_attention(block.attn)
    return text


def first_block_default(text: nn.Module) -> int:
    """The first block of the tower's top third."""
    return top_third(len(_blocks(text)[1]))


def word_layers(text: nn.Module, first: int) -> list[str]:
    """Names of the linear layers in the tower's blocks from `first` up."""
    prefix, blocks = _blocks(text)
    return [
        f"{prefix}.{number}.{name}"
        for number, block in list(enumerate(blocks))[first:]
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear)
    ]


def embed_words(text: Callable[[Tensor], Tensor], tokenizer: Any, texts: Sequence[str], device: torch.device) -> Tensor:
    """Vectors of unit length `[texts, space]` in float32; no gradients."""
    found = []
    with torch.no_grad():
        for at in range(0, len(texts), _BATCH):
            tokens = tokenizer(list(texts[at : at + _BATCH])).to(device)
            found.append(normalize(text(tokens).float(), dim=-1))
    return torch.cat(found)


def class_texts(names: Sequence[str], prompts: Sequence[str] = PROMPTS) -> list[str]:
    """What to embed for classes: all prompts of the first, then of the second..."""
    return [prompt.format(name.replace("_", " ")) for name in names for prompt in prompts]


def class_vectors(embedded: Tensor, classes: int) -> Tensor:
    """The vector of each class `[classes, space]`, of unit length, from those of its prompts, see `class_texts`."""
    return normalize(embedded.view(classes, -1, embedded.shape[1]).mean(dim=1), dim=-1)


def _blocks(text: nn.Module) -> tuple[str, nn.ModuleList]:
    lists = [(name, module) for name, module in text.named_modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=lambda found: len(found[1]))


class _Words(nn.Module):
    """The words' half of a model whose two halves are one module."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.transformer = clip.transformer
        self._clip = (clip,)  # in a tuple: the images' half is no part of this

    def forward(self, tokens: Tensor) -> Tensor:
        [clip] = self._clip
        embedded: Tensor = clip.encode_text(tokens)
        return embedded
