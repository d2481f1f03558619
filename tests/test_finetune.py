"""Training a quantized model: its gradients, its course, and that stopping it anywhere loses nothing."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from lampq_engine import checkpoint
from lampq_engine.data import Images
from lampq_engine.errors import InputError
from lampq_engine.evaluate import evaluate, predict
from lampq_engine.finetune import finetune_, rate, shifted, split
from lampq_engine.fitting import Seen, input_widths, wrap
from lampq_engine.journal import Report, silent
from lampq_engine.models import route_matmuls_, survey
from lampq_engine.quantize import quantize_
from lampq_engine.quantized import Quantized, quantized_layers, quantizers_of
from lampq_engine.quantizers import Uniform, fake_quantize
from lampq_engine.recipe import QuantizationSpec, TrainingSpec
from lampq_engine.types import Bits, Layer

SPEC = TrainingSpec(epochs=3, batch=8, learning_rate=2e-3)


def images(count: int, seed: int) -> Images:
    """Bright quarters: the class is which quarter of the image is bright."""
    source = torch.Generator().manual_seed(seed)
    x, labels = 0.3 * torch.randn(count, 1, 16, 16, generator=source), torch.arange(count) % 4
    for image, label in zip(x, labels.tolist(), strict=True):
        image[:, 8 * (label // 2) :, 8 * (label % 2) :][:, :8, :8] += 1.0
    names = tuple(f"{seed}/{i}" for i in range(count))
    return Images(names=names, labels=labels, contents=names, source=lambda i: x[i])


TRAINING, VALIDATION = images(48, 1), images(20, 2)


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", in_chans=1, num_classes=4, **sizes)
    nn.init.normal_(model.head.weight, std=0.5)  # timm starts it so small that every class is as likely as another
    route_matmuls_(model, TRAINING.batch([0]))
    return model.eval()


def layers_of(model: nn.Module) -> list[Layer]:
    return survey(model, TRAINING.batch([0]))


def quantized(teacher: nn.Module, width: int = 3) -> nn.Module:
    model, layers = copy.deepcopy(teacher), layers_of(teacher)
    bits = {layer.name: Bits(8, 8) if layer.is_matmul else Bits(width, width) for layer in layers}
    quantize_(model, layers, bits, TRAINING.batch(range(16)), spec=QuantizationSpec())
    return model


def train(
    model: nn.Module,
    teacher: nn.Module,
    folder: Path,
    *,
    spec: TrainingSpec = SPEC,
    key: str = "key",
    report: Report = silent,
    on_epoch: Callable[[int], object] | None = None,
) -> list[dict[str, Any]]:
    return finetune_(
        model,
        teacher=teacher,
        training=TRAINING,
        validation=VALIDATION,
        reference=predict(teacher, VALIDATION),
        spec=spec,
        folder=folder,
        key=key,
        report=report,
        on_epoch=on_epoch,
    )


class Stop(Exception):  # noqa: N818 - it stands for a cancellation
    pass


def stop_at(step: int) -> Report:
    def report(stage: str, done: int = 0, total: int = 0, **values: Any) -> None:
        if done >= step:
            raise Stop

    return report


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def by_autograd(x: Tensor, scale: Tensor, zero: Tensor, levels: int) -> Tensor:
    """The oracle: the formula out of differentiable pieces, `round` alone being straight-through."""
    position = x / scale + zero
    clamped = torch.clamp(position, 0, levels)
    return scale * (clamped + (clamped.round() - clamped).detach() - zero)


@pytest.mark.parametrize("shape", [(), (6, 1)])
@pytest.mark.parametrize("zero", [0.0, 1.5, 3.0])
def test_gradients_are_those_of_the_composition(shape: tuple[int, ...], zero: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 40, dtype=torch.float64)
    scale, zeros = torch.rand(shape, dtype=torch.float64) * 0.2 + 0.3, torch.full(shape, zero, dtype=torch.float64)
    weight, results = torch.randn_like(x), []
    for function in (fake_quantize, by_autograd):
        a, s = x.clone().requires_grad_(), scale.clone().requires_grad_()
        out = function(a, s, zeros, 3)
        (out * weight).sum().backward()
        results.append((out.detach(), a.grad, s.grad))
    (out, grad_x, grad_scale), (out2, grad_x2, grad_scale2) = results
    per_scale = 40 if shape else 240
    assert torch.allclose(out, out2)
    assert torch.allclose(grad_x, grad_x2)
    assert torch.allclose(grad_scale, grad_scale2 / math.sqrt(per_scale * 3))


def test_the_three_cases_of_the_step_gradient() -> None:
    """Below the range the lowest level, above it the highest, inside `round(v) - v` (LSQ, eq. 3)."""
    for x, slope in ((-9.0, -1.0), (9.0, 2.0), (0.3, -0.3), (0.8, 0.2)):
        scale = torch.tensor(1.0, requires_grad=True)
        fake_quantize(torch.tensor([x]), scale, torch.tensor(1.0), 3).backward()
        assert scale.grad is not None
        assert float(scale.grad) == pytest.approx(slope / math.sqrt(3), abs=1e-6)


def test_gradients_of_operands_that_are_not_contiguous() -> None:
    torch.manual_seed(0)
    base, scale = torch.randn(3, 4, 5, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    zero = torch.tensor(1.0)
    weight = torch.randn(5, 4, 3)
    (fake_quantize(base.permute(2, 1, 0), scale, zero, 3) * weight).sum().backward()
    found = (base.grad, scale.grad)
    base.grad = scale.grad = None
    (by_autograd(base.permute(2, 1, 0), scale, zero, 3) * weight).sum().backward()
    assert found[0] is not None
    assert base.grad is not None
    assert torch.allclose(found[0], base.grad, atol=1e-6)
    assert torch.allclose(found[1] * math.sqrt(60 * 3), scale.grad, atol=1e-4)  # type: ignore[operator]


def test_training_helps_and_says_how_it_goes(teacher: nn.Module, tmp_path: Path) -> None:
    model, seen = quantized(teacher), []

    def report(stage: str, done: int = 0, total: int = 0, **values: Any) -> None:
        seen.append((stage, done, total, values))

    before = evaluate(model, VALIDATION, reference=predict(teacher, VALIDATION))
    scales = {name: m.scale.clone() for name, m in model.named_modules() if isinstance(m, Uniform)}
    history = train(model, teacher, tmp_path, spec=replace(SPEC, epochs=6), report=report)
    after = evaluate(model, VALIDATION, reference=predict(teacher, VALIDATION))

    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    assert after.kl < before.kl
    assert all(math.isfinite(value) for row in history for value in row.values())
    assert all(row["low"] <= row["top1"] <= row["high"] and row["images"] == 20 for row in history)
    (kept,) = [row for row in history if row["kept"]]
    assert kept["held"] == min(row["held"] for row in history)
    assert after.top1 == pytest.approx(kept["top1"])

    assert {stage for stage, *_ in seen} == {"train"}
    assert seen[-1][1] == seen[-1][2] == 6 * math.ceil(43 / 8)
    assert len([values for *_, values in seen if {"epoch", "loss", "top1", "low", "high"} <= values.keys()]) == 6

    assert not model.training
    assert all(getattr(q, "log_step", None) is None for q in quantizers_of(model))
    assert any(not torch.equal(m.scale, scales[n]) for n, m in model.named_modules() if isinstance(m, Uniform))
    assert {m.bits for m in model.modules() if isinstance(m, Uniform)} == {3, 8}


@pytest.mark.parametrize("step", [3, 6, 7, 12, 16])
def test_a_run_that_was_stopped_ends_like_one_that_was_not(teacher: nn.Module, tmp_path: Path, step: int) -> None:
    whole, resumed = quantized(teacher), quantized(teacher)
    expected = train(whole, teacher, tmp_path / "whole")
    with pytest.raises(Stop):
        train(quantized(teacher), teacher, tmp_path / "stopped", report=stop_at(step))
    assert train(resumed, teacher, tmp_path / "stopped") == expected
    assert same(whole, resumed)


def test_a_run_that_ended_is_read_back(teacher: nn.Module, tmp_path: Path) -> None:
    first, second = quantized(teacher), quantized(teacher)
    assert train(first, teacher, tmp_path) == train(second, teacher, tmp_path, report=stop_at(0))
    assert same(first, second)


def test_cancelling_keeps_the_epoch_before_and_nothing_half_written(teacher: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(quantized(teacher), teacher, tmp_path, report=stop_at(8))
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.NAME]
    found = checkpoint.read_checkpoint(tmp_path, "key")
    assert found is not None
    assert found[1]["epoch"] == 1
    left = tmp_path / f".{checkpoint.NAME}.abc"  # what a process killed while it writes leaves
    left.write_bytes(b"half")
    train(quantized(teacher), teacher, tmp_path)
    assert not left.exists()


@pytest.mark.parametrize("harm", ["cut", "flip", "text", "key"])
def test_a_checkpoint_that_is_damaged_or_of_another_run_is_not_used(
    teacher: nn.Module, tmp_path: Path, harm: str
) -> None:
    whole, again = quantized(teacher), quantized(teacher)
    expected = train(whole, teacher, tmp_path / "whole")
    with pytest.raises(Stop):
        train(quantized(teacher), teacher, tmp_path, report=stop_at(8))
    file = tmp_path / checkpoint.NAME
    content = bytearray(file.read_bytes())
    content[-100] ^= 0 if harm in ("cut", "key") else 1
    file.write_bytes({"cut": content[: len(content) // 2], "text": b"not a checkpoint"}.get(harm, content))
    key = "other" if harm == "key" else "key"
    assert checkpoint.read_checkpoint(tmp_path, key) is None
    assert train(again, teacher, tmp_path, key=key) == expected
    assert same(whole, again)


def test_bits_that_change_on_the_way_are_resumed_too(teacher: nn.Module, tmp_path: Path) -> None:
    """`on_epoch` wraps one layer anew, narrower, and takes the quantizers off another."""
    layers = {layer.name: layer for layer in layers_of(teacher)}
    spec = replace(SPEC, epochs=4, update_every=2)

    def changing(model: nn.Module, epochs: list[int]) -> Callable[[int], None]:
        def change(epoch: int) -> None:
            epochs.append(epoch)
            layer, op = layers["blocks.0.mlp.fc1"], quantized_layers(model)["blocks.0.mlp.fc1"].op
            bits = Bits(2, 2)
            assert input_widths(layer, bits) == (2,)
            x = torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(epoch))
            model.set_submodule(layer.name, wrap(Seen(op, layer, [x], QuantizationSpec(bias="keep")), bits))
            if isinstance(head := model.get_submodule("head"), Quantized):
                model.set_submodule("head", head.op)

        return change

    whole, stopped, resumed = quantized(teacher), quantized(teacher), quantized(teacher)
    calls: list[int] = []
    expected = train(whole, teacher, tmp_path / "a", spec=spec, on_epoch=changing(whole, calls))
    assert calls == [2]  # not after the last epoch: nothing would train on
    assert next(row["epoch"] for row in expected if row["kept"]) > 2 or not any(row["kept"] for row in expected[2:])
    with pytest.raises(Stop):
        train(stopped, teacher, tmp_path / "b", spec=spec, report=stop_at(18), on_epoch=changing(stopped, []))
    assert train(resumed, teacher, tmp_path / "b", spec=spec, on_epoch=changing(resumed, [])) == expected
    assert same(whole, resumed)
    assert checkpoint.forms(whole) == checkpoint.forms(resumed)
    assert checkpoint.forms(resumed)["blocks.0.mlp.fc1"] == [("Uniform", 2), ("Uniform", 2)]
    assert "head" not in quantized_layers(resumed)


def test_no_epochs_and_too_few_images(teacher: nn.Module, tmp_path: Path) -> None:
    model = quantized(teacher)
    assert train(model, teacher, tmp_path, spec=TrainingSpec(epochs=0)) == []
    assert same(model, quantized(teacher))
    with pytest.raises(InputError, match=r"1 training images are too few\. Expected 2 or more"):
        train(model, teacher, tmp_path, spec=replace(SPEC, images=1))


def test_a_loss_that_is_not_finite_is_said_and_leaves_the_checkpoint(teacher: nn.Module, tmp_path: Path) -> None:
    model = quantized(teacher)
    with torch.no_grad():
        model.get_submodule("norm").weight.fill_(math.nan)  # type: ignore[union-attr,operator]
    with pytest.raises(InputError, match="Training diverged in epoch 1"):
        train(model, teacher, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_held_out_images_are_not_trained_on() -> None:
    learned, held = split(TRAINING, SPEC)
    assert (len(learned), len(held)) == (43, 5)
    assert not set(learned.names) & set(held.names)
    assert split(TRAINING, SPEC)[1].names == held.names
    assert sum(map(len, split(TRAINING, replace(SPEC, images=20)))) == 20


def test_shifts_move_whole_images_and_repeat_the_border() -> None:
    torch.manual_seed(0)
    x = torch.arange(256.0).view(1, 1, 16, 16).expand(30, 2, 16, 16)
    moved = shifted(x)
    assert moved.shape == x.shape
    padded = nn.functional.pad(x[:1], (1, 1, 1, 1), mode="replicate")[0]
    every = [padded[:, i : i + 16, j : j + 16] for i in range(3) for j in range(3)]
    found = {next(k for k, one in enumerate(every) if torch.equal(image, one)) for image in moved}
    assert len(found) > 5
    assert torch.equal(shifted(torch.ones(2, 3, 8, 8)), torch.ones(2, 3, 8, 8))


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    assert rate(0.0, 0.1) == 0
    assert rate(0.05, 0.1) == pytest.approx(0.5)
    assert rate(0.1, 0.1) == 1
    assert rate(0.55, 0.1) == pytest.approx(0.5)
    assert rate(1.0, 0.1) == pytest.approx(0)
    assert rate(0.0, 0.0) == 1
