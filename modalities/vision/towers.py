"""Image towers cut into stages, so that the frozen lower ones run once for all adapters of the upper ones.

    images [batch, 3, size, size] -> stage 0 -> ... -> stage n-1 -> features [batch, width] -> project -> [batch, space]

The stem belongs to the first stage; last convolution or norm, and pooling, to the last. A tower of a kind that is not
known here is one stage: it can be probed, and tuned as a whole.
"""

from collections.abc import Callable, Sequence
from math import isqrt
from typing import Any

import torch
from open_clip.model import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock
from open_clip.transformer import VisionTransformer as ClipTransformer
from timm.models.efficientnet import EfficientNet
from timm.models.vision_transformer import VisionTransformer, global_pool_nlc
from torch import Tensor, nn

from modalities.vision.attention import split_attention


class Tower(nn.Module):
    """A tower's modules in stages; they are the very modules it was cut from.

    Attributes:
        stages: At least one.
        project: From features into the space where images and words meet; the identity where there is none.
        width: Length of the features.
        fixed_size: The only size of image it takes, in pixels; None takes any.
        pools: The last stage ends with a module of its own that makes one vector of all places of an image.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        project: nn.Module,
        width: int,
        fixed_size: int | None,
        *,
        pools: bool = True,
    ) -> None:
        super().__init__()
        self.stages, self.project = nn.ModuleList(stages), project
        self.width, self.fixed_size, self.pools = width, fixed_size, pools

    @property
    def before_places(self) -> int:
        """How many stages run before `places`."""
        return len(self.stages) - 1 if self.pools else len(self.stages)

    def places(self, x: Tensor) -> Tensor:
        """The end of the tower without its pooling: what is seen where, `[batch, places, width]`, row by row.

        Tokens that belong to no place, as transformers have before the others, are left out. A tower that pools in a
        way of its own has one place.

        Args:
            x: What the first `before_places` stages gave.
        """
        if not self.pools:
            return x[:, None]
        for module in list(self.stages[-1].children())[:-1]:
            x = module(channels_last(x))
        if x.ndim == 4:
            return x.flatten(2).transpose(1, 2)
        return x[:, x.shape[1] - isqrt(x.shape[1]) ** 2 :]

    def run_stages(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run the stages from `start` up to, without, `stop`; after the last one these are the features.

        Args:
            x: `[batch, 3, size, size]` for the first stage, else what the stage before `start` gave.
            start: Index of the first stage to run.
            stop: Index of the first one not to run; None runs all.
        """
        for stage in list(self.stages)[start:stop]:
            x = stage(channels_last(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Images `[batch, 3, size, size]` to features `[batch, width]`."""
        return self.run_stages(x)


def channels_last(x: Tensor) -> Tensor:
    """Images and maps as convolutions read them fastest on a CPU: the lower stages of the pack take half the time."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def cut(visual: Any) -> Tower:
    """Cut a tower of open_clip, or a model of timm without its classifier."""
    known: dict[Any, Callable[[Any], Tower]] = {
        TimmModel: _within,
        EfficientNet: _efficientnet,
        VisionTransformer: _timm_transformer,
        ClipTransformer: _clip_transformer,
        ModifiedResNet: _resnet,
    }
    if getattr(visual, "attn_pool", None) is not None:  # a pool of another kind than those below
        return _whole(visual)
    return known.get(type(visual), _whole)(visual)


def _within(visual: Any) -> Tower:
    trunk = cut(visual.trunk)
    return Tower(list(trunk.stages), visual.head, trunk.width, trunk.fixed_size, pools=trunk.pools)


def _efficientnet(model: Any) -> Tower:
    stages = _with_ends(model.blocks, [model.conv_stem, model.bn1], [model.conv_head, model.bn2, model.global_pool])
    return Tower(stages, nn.Identity(), model.num_features, None)


def _timm_transformer(model: Any) -> Tower:
    size = model.pretrained_cfg["input_size"][-1]
    stages = _with_ends(model.blocks, [_TimmEmbedding(model)], [model.norm, _TimmPool(model)])
    return Tower(stages, nn.Identity(), model.num_features, size)


def _clip_transformer(model: Any) -> Tower:
    blocks = list(model.transformer.resblocks)
    for block in blocks:
        if type(block) is ResidualAttentionBlock:
            block.attn = split_attention(block.attn)
    project = _Product(model.proj) if model.proj is not None else nn.Identity()
    stages = _with_ends(blocks, [_ClipEmbedding(model)], [_ClipPool(model)])
    return Tower(stages, project, model.ln_post.weight.shape[0], model.image_size[0])


def _resnet(model: Any) -> Tower:
    stem = [getattr(model, f"{part}{number}") for number in (1, 2, 3) for part in ("conv", "bn", "act")]
    layers = [model.layer1, model.layer2, model.layer3, model.layer4]
    stages = _with_ends(layers, [*stem, model.avgpool], [model.attnpool])
    size = model.image_size if isinstance(model.image_size, int) else model.image_size[0]
    return Tower(stages, nn.Identity(), model.output_dim, size)


def _whole(model: Any) -> Tower:
    size: Any = getattr(model, "image_size", None) or getattr(model, "pretrained_cfg", {}).get("input_size")
    fixed = size if isinstance(size, int) else size[-1] if size else None
    width = getattr(model, "output_dim", None) or getattr(model, "num_features", None)
    if width is None:
        with torch.no_grad():
            width = model(torch.zeros(1, 3, fixed or 224, fixed or 224)).shape[1]
    return Tower([model], nn.Identity(), int(width), fixed, pools=False)


def _with_ends(blocks: Any, first: Sequence[nn.Module], last: Sequence[nn.Module]) -> list[nn.Module]:
    """One stage for each block; what comes before joins the first, what comes after the last."""
    parts = [[block] for block in blocks]
    parts[0] = [*first, *parts[0]]
    parts[-1] = [*parts[-1], *last]
    return [nn.Sequential(*part) for part in parts]


class _TimmEmbedding(nn.Module):
    """timm's own code for patches and positions, of which there are many kinds."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: the blocks above are no part of this one

    def forward(self, x: Tensor) -> Tensor:
        [model] = self._model
        embedded: Tensor = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))
        return embedded


class _TimmPool(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.fc_norm = model.fc_norm
        self._type, self._prefix = model.global_pool, model.num_prefix_tokens
        self._include = model.pool_include_prefix

    def forward(self, x: Tensor) -> Tensor:
        pooled = global_pool_nlc(x, self._type, self._prefix, self._include)
        normed: Tensor = self.fc_norm(pooled)
        return normed


class _ClipEmbedding(nn.Module):
    """Patches, class token and positions of open_clip's transformer, without the patch dropout of its pretraining."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.conv1, self.ln_pre = model.conv1, model.ln_pre
        self.class_embedding, self.positional_embedding = model.class_embedding, model.positional_embedding

    def forward(self, x: Tensor) -> Tensor:
        patches = self.conv1(x).flatten(2).transpose(1, 2)
        token = self.class_embedding.to(patches.dtype).expand(x.shape[0], 1, -1)  # len() would fix it in a graph
        positions = self.positional_embedding.to(patches.dtype)
        embedded: Tensor = self.ln_pre(torch.cat([token, patches], dim=1) + positions)
        return embedded


class _ClipPool(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.ln_post = model.ln_post
        self._type, self._norm_last = model.pool_type, model.final_ln_after_pool

    def forward(self, x: Tensor) -> Tensor:
        if not self._norm_last:
            x = self.ln_post(x)
        x = x[:, 1:].mean(dim=1) if self._type == "avg" else x[:, 0]
        return self.ln_post(x) if self._norm_last else x


class _Product(nn.Module):
    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight
