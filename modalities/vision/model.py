"""A vision base in memory: its image tower in stages, a text tower where there is one, and how images come in."""

import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import open_clip
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import logging

from moatelier.errors import InvalidRequest, MoatelierError, ModelUnavailable
from modalities import catalogue
from modalities.machine import DTYPES, Precision, set_threads
from modalities.text.config import top_third
from modalities.vision.config import ImageTransform, VisionConfig, read_config, weights_file
from modalities.vision.towers import Tower, cut

_CAPTION_TOKENS = 128


@dataclass(frozen=True)
class VisionBase:
    """A loaded base. Its weights are frozen and in evaluation mode.

    Attributes:
        tower: The image tower in stages.
        clip: The whole model of open_clip with its text tower; None when only the image tower was loaded.
        tokenizer: Of the text tower: texts to `[texts, tokens]`.
        entry_id: The catalogue id.
        digest: Names the model's bytes, see `catalogue.base_digest`.
        text_digest: Names the bytes of a text tower that is a model of its own.
        config: What the folder says; its transform is the one the base was trained with.
        precision: What the weights are in; batch norms stay in float32.
    """

    tower: Tower
    clip: Any
    tokenizer: Any
    entry_id: str
    digest: str
    text_digest: str | None
    config: VisionConfig
    precision: Precision

    @property
    def first_stage_default(self) -> int:
        """The first stage that an adapter changes by default: 7 stages -> 4."""
        return top_third(len(self.tower.stages))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.tower.parameters()).device

    def transform_at(self, size: int) -> ImageTransform:
        """The base's transform for images of another size.

        Raises:
            InvalidRequest: The tower takes no such size.
        """
        if self.tower.fixed_size not in (None, size):
            raise InvalidRequest(
                f"{self.entry_id!r} takes images of {self.tower.fixed_size} pixels only, not {size}.",
                where="size",
                remedy=f"Use {self.tower.fixed_size}, or another base.",
            )
        return self.config.transform.at(size)

    def require_shared_space(self, tuned: bool = False) -> None:
        """Refuse to compare images with words where the two towers have never met.

        Args:
            tuned: An adapter of contrastive tuning is in use.

        Raises:
            InvalidRequest: There is no text tower, or the towers were trained apart.
        """
        if not (self.config.zero_shot or tuned):
            raise InvalidRequest(
                f"The towers of {self.entry_id!r} for images and for words were trained apart and never met.",
                where=self.entry_id,
                remedy="Tune it on images with captions first, or use a model of open_clip.",
            )
        if self.clip is None:
            raise InvalidRequest(
                f"{self.entry_id!r} was loaded without a text tower.",
                where=self.entry_id,
                remedy="Load it with one, or use a model of open_clip.",
            )


def load_base(
    base_id: str, precision: Literal["auto", "bf16", "fp32"] = "auto", *, text: str | None = None
) -> VisionBase:
    """Load a pulled vision model on the GPU if there is one, else on the CPU. Never touches the network.

    Args:
        base_id: A catalogue id.
        precision: `auto` is bf16 on a GPU and fp32 on a CPU, where convolutions gain nothing from less.
        text: Catalogue id of an embedding model to be the text tower of a base that has none of its own. The
            projection of the images into its space is random until it is tuned.

    Raises:
        NotFound: Unknown id.
        ModelUnavailable: Not pulled, not a vision model, or its files do not load.
        IntegrityError: Its files are not those that were pulled.
    """
    catalogue.need_kind(base_id, "vision")
    folder, digest = catalogue.folder(base_id), catalogue.base_digest(base_id)
    set_threads()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen: Precision = precision if precision != "auto" else "bf16" if device == "cuda" else "fp32"
    config, text_digest = read_config(folder), None
    with _translated(folder):
        if config.format == "open_clip":
            model, tokenizer = _open_clip(folder)
        elif text is not None:
            catalogue.need_kind(text, "embedding")
            text_digest = catalogue.base_digest(text)
            model, tokenizer = _with_words(config, folder, catalogue.folder(text))
        else:
            model, tokenizer = _timm(config, folder), None
    model.eval().requires_grad_(False).to(device, DTYPES[chosen])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    clip = model if tokenizer is not None else None
    tower = cut(model.visual if clip is not None else model).eval()
    return VisionBase(tower, clip, tokenizer, base_id, digest, text_digest, config, chosen)


def embed_images(base: VisionBase, pixels: Tensor, *, tuned: bool = False) -> Tensor:
    """Vectors of unit length `[batch, space]` of images `[batch, 3, size, size]` in the space of the words.

    Raises:
        InvalidRequest: See `VisionBase.require_shared_space`.
    """
    base.require_shared_space(tuned)
    tensor: Tensor = base.tower.project(base.tower(pixels.to(base.device, DTYPES[base.precision])))
    return normalize(tensor.float(), dim=-1)


def embed_texts(base: VisionBase, texts: Sequence[str], *, tuned: bool = False) -> Tensor:
    """Vectors of unit length `[texts, space]`. Raises like `embed_images`."""
    base.require_shared_space(tuned)
    tokens: Tensor = base.tokenizer(list(texts)).to(base.device)
    vectors: Tensor = base.clip.encode_text(tokens)
    return normalize(vectors.float(), dim=-1)


def _timm(config: VisionConfig, folder: Path) -> Any:
    model = timm.create_model(config.architecture, pretrained=False, num_classes=0)
    expected, found = model.state_dict(), load_file(weights_file(folder, "timm"))
    # The classifier is not wanted; the batch norms' counters are of no use, and not in our own pack.
    counters = {name: tensor for name, tensor in expected.items() if name.endswith("num_batches_tracked")}
    model.load_state_dict(counters | {name: tensor for name, tensor in found.items() if name in expected})
    return model


def _with_words(config: VisionConfig, folder: Path, text: Path) -> tuple[Any, Any]:
    """The image tower beside a sentence-transformers folder as text tower."""
    space = int(json.loads((text / "config.json").read_text(encoding="utf-8"))["hidden_size"])
    with torch.random.fork_rng(devices=[]):  # the projection is drawn, and always the same
        torch.manual_seed(0)
        model = open_clip.CustomTextCLIP(
            space,
            {"timm_model_name": config.architecture, "image_size": config.transform.size},
            {"hf_model_name": str(text), "hf_pooler_type": "mean_pooler", "hf_proj_type": "linear"},
        )
    model.visual.trunk.load_state_dict(_timm(config, folder).state_dict())
    nn.init.eye_(model.text.proj.weight)  # words start where the text tower has them
    tokenizer = open_clip.tokenizer.HFTokenizer(str(text), min(_CAPTION_TOKENS, model.context_length))
    return model, partial(_trimmed, tokenizer)


def _trimmed(tokenizer: Any, texts: list[str]) -> Tensor:
    """Tokens `[texts, longest]`: open_clip pads to the whole context, which a masked text tower need not read."""
    ids: Tensor = tokenizer(texts)
    return ids[:, : int((ids != tokenizer.tokenizer.pad_token_id).sum(dim=1).max())]


def _open_clip(folder: Path) -> tuple[Any, Any]:
    told = open_clip.get_model_config(f"local-dir:{folder}")["text_cfg"]
    if name := told.get("hf_model_name"):
        raise ModelUnavailable(
            f"The text tower is the model {name!r} of the Hub, which is not in this folder.",
            where=str(folder),
            remedy="Use a model of open_clip with a text tower of its own.",
        )
    model = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True, weights_only=True)
    return model, open_clip.get_tokenizer(f"local-dir:{folder}")


@contextlib.contextmanager
def _translated(folder: Path) -> Iterator[None]:
    """Load without progress bars and reports, and with the libraries' errors translated."""
    logging.disable_progress_bar()
    told = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except MoatelierError:
        raise
    except Exception as error:  # timm, open_clip, transformers and safetensors raise many kinds
        raise ModelUnavailable(
            f"The model's files do not load: {type(error).__name__}: {error}",
            where=str(folder),
            remedy="Delete the folder and pull the model again.",
        ) from error
    finally:
        logging.set_verbosity(told)
