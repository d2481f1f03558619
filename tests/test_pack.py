"""The packed file: dense codes, its predicted size, and the very logits of the simulated model."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from lampq_engine.cost import CostModel
from lampq_engine.errors import InputError
from lampq_engine.models import load_model, route_matmuls_, survey
from lampq_engine.pack import fixed_bytes, load_packed, pack_bits, unpack_bits, write_packed
from lampq_engine.quantize import folds_of, quantize_
from lampq_engine.quantized import quantized_layers
from lampq_engine.recipe import QuantizationSpec, Recipe
from lampq_engine.types import Bits, Layer


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [1, 7, 8, 1000])
def test_bits_round_trip(bits: int, count: int) -> None:
    codes = torch.randint(0, 2**bits, (count,), generator=torch.Generator().manual_seed(bits)).float()
    stream = pack_bits(codes, bits)
    assert len(stream) == -(-count * bits // 8)
    assert torch.equal(unpack_bits(stream, bits, count), codes)


def test_bit_order_is_little_endian() -> None:
    assert pack_bits(torch.tensor([1.0, 2.0, 3.0]), 3).tolist() == [0b11010001, 0b0]


def swin() -> nn.Module:
    torch.manual_seed(0)
    settings = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}
    model = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, num_classes=5, **settings)
    model.lampq_arguments = settings  # type: ignore[assignment]
    return model.eval()


def quantized(
    model: nn.Module, size: tuple[int, ...], spec: QuantizationSpec
) -> tuple[nn.Module, list[Layer], torch.Tensor, dict[str, Bits]]:
    images = torch.randn(6, *size, generator=torch.Generator().manual_seed(0))
    route_matmuls_(model, images[:1])
    layers = list(survey(model, images[:1]))
    source = random.Random(0)
    bits = {layer.name: Bits(source.choice([2, 3, 4, 5, 8]), source.choice([3, 4, 6, 8])) for layer in layers}
    bits[layers[1].name], bits[layers[5].name] = Bits(32, 32), Bits(4, 32)
    folds = folds_of(model, layers, images[:1])
    result = copy.deepcopy(model)
    quantize_(result, layers, bits, images, spec=spec, folds=folds)
    return result.eval(), layers, images, bits


MPTQ = QuantizationSpec(images=6, fold="sq_b", gelu="opt_m", grid="symmetric")
PSAQ = QuantizationSpec(images=6, fold="none", grid="symmetric_weights", range="minmax", bias="keep", softmax="uniform")


@pytest.mark.parametrize("spec", [QuantizationSpec(images=6), MPTQ, PSAQ], ids=["plain", "mptq", "psaq"])
@pytest.mark.parametrize(("make", "size"), [(lambda: load_model("builtin"), (1, 32, 32)), (swin, (3, 64, 64))])
def test_loads_back_to_the_same_logits(
    make: object, size: tuple[int, ...], spec: QuantizationSpec, tmp_path: Path
) -> None:
    model = make()  # type: ignore[operator]
    plain = copy.deepcopy(model)
    simulated, layers, images, bits = quantized(model, size, spec)
    path = tmp_path / "packed.safetensors"
    written = write_packed(path, simulated, Recipe())
    loaded = load_packed(path)
    with torch.no_grad():
        ours, theirs = simulated(images), loaded(images)
        assert not torch.allclose(ours, plain(images), atol=1e-3)  # it really is quantized
    assert float((ours - theirs).abs().max()) <= 1e-5
    assert set(quantized_layers(loaded)) == set(quantized_layers(simulated))
    route_matmuls_(plain, images[:1])
    predicted = CostModel(tuple(layers), fixed_bytes(plain, layers)).cost(bits).megabytes
    assert path.stat().st_size == written
    assert predicted == pytest.approx(written / 1e6, rel=0.01)


def test_foreign_and_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "packed.safetensors"
    simulated, *_ = quantized(load_model("builtin"), (1, 32, 32), PSAQ)
    write_packed(path, simulated, Recipe())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"packed\.safetensors is not a whole safetensors file"):
        load_packed(path)
    weights = Path(__file__).resolve().parents[1] / "assets" / "models" / "digits_vit" / "model.safetensors"
    with pytest.raises(InputError, match="is not a packed file"):
        load_packed(weights)
