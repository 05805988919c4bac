"""What is tuned in an image tower: a head, the last stages, or low-rank parts; all else keeps its bits."""

from collections.abc import Callable
from typing import Any

import open_clip
import pytest
import timm
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from moatelier.contracts import TrainSpec
from moatelier.errors import DataError, IntegrityError, InvalidRequest
from modalities.vision.classifier import Classifier
from modalities.vision.towers import cut
from modalities.vision.tuned import lora_layers
from tests.modalities.vision import towers
from training.methods import image_lora, linear_probe, top_blocks

SPEC = TrainSpec(method="any", base="base", dataset="d", suffix="s", rank=4, alpha=8.0)
METHODS = [linear_probe, top_blocks, image_lora]


def efficientnet() -> Any:
    return cut(towers.seeded(lambda: timm.create_model("test_efficientnet", pretrained=False, num_classes=0)))


def vit() -> Any:
    return cut(towers.seeded(lambda: open_clip.CLIP(**towers.VIT)).visual)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def step(model: Any, hidden: Tensor, start: int, steps: int = 2) -> None:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        loss = cross_entropy(model(hidden, start), torch.tensor([0, 1, 2]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def logits(model: Any, x: Tensor, start: int = 0) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(x, start)
    return found


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__.rsplit(".")[-1])
@pytest.mark.parametrize("make", [efficientnet, vit])
def test_a_method_tunes_the_top_and_its_weights_come_back(method: Any, make: Callable[[], Any]) -> None:
    tower, x = make(), towers.images(3)
    tower.requires_grad_(False)
    first = len(tower.stages) - 1
    lower = state(nn.ModuleList(list(tower.stages)[:first]))
    with torch.inference_mode():
        hidden = tower.run_stages(x, 0, first)
    hidden = hidden.clone()
    model = method.attach(Classifier(tower, 3), SPEC, first)
    norms = {n: m.running_mean.clone() for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    before = {name: tensor.clone() for name, tensor in method.weights(model).items()}
    start = logits(model, x)
    torch.testing.assert_close(logits(model, hidden, first), start)
    step(model, hidden, first)
    after = method.weights(model)
    assert after.keys() == before.keys() and any("head" in name for name in after)
    assert not torch.equal(logits(model, x), start)
    assert all(torch.equal(tensor, lower[name]) for name, tensor in state(
        nn.ModuleList(list(tower.stages)[:first])).items())  # fmt: skip
    assert all(torch.equal(m.running_mean, norms[n]) for n, m in model.named_modules() if n in norms)
    other = method.attach(Classifier(_fresh(make), 3), SPEC, first)
    method.restore(other, after)
    assert torch.equal(logits(other, x), logits(model, x))
    method.restore(model, before)
    torch.testing.assert_close(logits(model, x), start)
    with pytest.raises(IntegrityError, match="do not belong to the adapter"):
        method.restore(model, dict(list(before.items())[1:]))
    assert method.config(model, "images") == method.config(other, "images")
    assert b'"images"' in method.config(model, "images")


def _fresh(make: Callable[[], Any]) -> Any:
    tower = make()
    tower.requires_grad_(False)
    return tower


def test_top_blocks_leave_the_base_alone_and_norms_untuned() -> None:
    tower = _fresh(efficientnet)
    base, x = state(tower), towers.images(3)
    model = top_blocks.attach(Classifier(tower, 3), SPEC, 3)
    step(model, x, 0)
    assert all(torch.equal(tensor, base[name]) for name, tensor in tower.state_dict().items())
    assert not any("bn" in name for name in top_blocks.weights(model))
    assert {name.split(".")[2] for name in top_blocks.weights(model) if name.startswith("tower")} == {"3", "4"}
    assert b'"first_stage":3' in top_blocks.config(model, "b")
    for stage in (-1, 5):
        with pytest.raises(InvalidRequest, match="no stage"):
            top_blocks.attach(Classifier(efficientnet(), 3), SPEC, stage)


def test_top_blocks_are_in_float32_above_a_base_in_bfloat16() -> None:
    tower = _fresh(vit).to(torch.bfloat16)
    model = top_blocks.attach(Classifier(tower, 3), SPEC, 2)
    assert {tensor.dtype for tensor in top_blocks.weights(model).values()} == {torch.float32}
    step(model, towers.images(3).bfloat16(), 0)
    assert logits(model, towers.images(3)).isfinite().all()


def test_lora_goes_on_linear_layers_and_pointwise_convolutions() -> None:
    model = Classifier(efficientnet(), 3)
    names = lora_layers(model.tower, 3)
    kinds = {type(model.get_submodule(name)).__name__ for name in names}
    assert kinds <= {"Conv2d", "Conv2dSame", "Linear"} and all(name.startswith("tower.stages.") for name in names)
    depthwise = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert depthwise and not set(depthwise) & set(lora_layers(model.tower, 0))
    assert {name.rsplit(".", 1)[-1] for name in lora_layers(vit(), 2)} == {
        "qkv",
        "out_proj",
        "c_fc",
        "c_proj",
    }
    whole = cut(towers.seeded(lambda: timm.create_model("test_convnext", pretrained=False, num_classes=0)))
    assert lora_layers(whole, 0)
    with pytest.raises(InvalidRequest, match="From stage 9 up"):
        image_lora.attach(model, SPEC, 9)


def test_lora_drops_out_in_training_only() -> None:
    model = image_lora.attach(Classifier(_fresh(vit), 3), SPEC.model_copy(update={"dropout": 0.5}), 0)
    x = towers.images(3)
    step(model, x, 0)
    assert torch.equal(logits(model, x), logits(model, x))
    model.train()
    assert not torch.equal(logits(model, x), logits(model, x))


@pytest.mark.parametrize("labels", [2, 3])
def test_a_probe_is_a_logistic_regression(labels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(120) % labels
    features = torch.randn(120, 8, generator=generator) * torch.arange(1, 9) + 3 * targets[:, None]
    weight, bias = linear_probe.fit(features, targets, labels)
    assert weight.shape == (labels, 8) and weight.dtype == torch.float32
    scaled = (features - features.mean(0)) / features.std(0, correction=0)
    found = (features @ weight.T + bias).softmax(dim=1)
    references = [LogisticRegression(C=c, max_iter=1000).fit(scaled.numpy(), targets) for c in (1e-4, 3e-4, 1e-3, 1e-2)]
    expected = [torch.from_numpy(model.predict_proba(scaled.numpy())).float() for model in references]
    assert min(float((found - each).abs().max()) for each in expected) < 1e-3
    again = linear_probe.fit(features, targets, labels)
    assert torch.equal(again[0], weight) and torch.equal(again[1], bias)


def test_a_head_starts_from_the_probe() -> None:
    model = linear_probe.attach(Classifier(_fresh(efficientnet), 2), SPEC, 0)
    features, targets = torch.randn(20, 256), torch.arange(20) % 2
    linear_probe.start_head(model, features, targets)
    right = (model.class_head(features).argmax(dim=1) == targets).float().mean()
    assert right > 0.9 and b'"first_stage":5' in linear_probe.config(model, "b")


@pytest.mark.parametrize(
    ("features", "targets", "labels"),
    [
        (torch.zeros(4, 3), torch.tensor([0, 0, 1, 1]), 3),
        (torch.zeros(4, 3), torch.tensor([0, 0, 0, 0]), 1),
        (torch.full((4, 3), torch.nan), torch.tensor([0, 0, 1, 1]), 2),
    ],
    ids=["a label without rows", "one label", "not finite"],
)
def test_a_probe_of_nothing_is_refused(features: Tensor, targets: Tensor, labels: int) -> None:
    with pytest.raises(DataError, match="finite features, two labels"):
        linear_probe.fit(features, targets, labels)


def test_two_rows_a_label_are_enough_for_a_probe() -> None:
    weight, _ = linear_probe.fit(torch.randn(4, 3), torch.tensor([0, 0, 1, 1]), 2)
    assert weight.isfinite().all()
