"""Loading, matmul routing and survey, on tiny instances of timm's own architectures and on real DeiT-Tiny weights."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.models
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lampq_engine.errors import InputError
from lampq_engine.models import (
    MatMul,
    assets_dir,
    bypassed,
    load_model,
    preprocessing,
    route_matmuls_,
    survey,
    transform,
    unrouted,
    weights_hash,
)
from lampq_engine.models.probe import probe

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
DEIT = SHARED / "models" / "deit_tiny_patch16_224"

PLAIN: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
SWIN: dict[str, Any] = {"img_size": 32, "window_size": 4, "embed_dim": 12, "depths": (1, 2), "num_heads": (2, 4)}
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", PLAIN),
    "deit": ("deit_tiny_patch16_224", PLAIN),
    "distilled": ("deit_tiny_distilled_patch16_224", PLAIN),
    "swin": ("swin_tiny_patch4_window7_224", SWIN),
    "swinv2": ("swinv2_tiny_window8_256", SWIN),
    "siglip": ("vit_base_patch16_siglip_224", PLAIN),
    "beit": ("beit_base_patch16_224", PLAIN),
    "eva02": ("eva02_tiny_patch14_224", PLAIN),
    "cait": ("cait_xxs24_224", PLAIN),
}
BLOCK = ["qkv", "scores", "context", "proj", "fc1", "fc2"]


def tiny(family: str, **changes: Any) -> nn.Module:
    """A tiny instance with weights large enough that attention matters, fused wherever timm can."""
    name, kwargs = TINY[family]
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, num_classes=7, **{**kwargs, **changes}).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = True
    return model


def images(count: int = 1, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def routed(family: str, **changes: Any) -> nn.Module:
    model = tiny(family, **changes)
    route_matmuls_(model, images())
    return model


# --- routing


@pytest.mark.parametrize("family", TINY)
def test_routed_forward_equals_fused_forward(family: str) -> None:
    model, x = tiny(family), images(3)
    expected = model(x)
    keys, classes = list(model.state_dict()), [type(module) for module in model.modules()]
    names = route_matmuls_(model, images())
    assert (model(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert list(model.state_dict()) == keys
    originals = [module for module in model.modules() if not isinstance(module, MatMul)]
    assert all(isinstance(module, cls) for module, cls in zip(originals, classes, strict=True))
    assert unrouted(model, images()) == []
    assert len(names) == {"swin": 3, "swinv2": 3, "siglip": 3, "cait": 4}.get(family, 2)


def test_products_go_through_the_submodules_in_their_order() -> None:
    model = routed("vit")
    seen: list[tuple[str, tuple[int, ...]]] = []
    for name, module in model.named_modules():
        if isinstance(module, MatMul):
            module.register_forward_hook(lambda _, args, out, name=name: seen.append((name, tuple(out.shape))))
    model(images(2))
    scores, context = (2, 2, 17, 17), (2, 2, 17, 12)
    assert seen == [(f"blocks.{i}.attn.{op}", shape) for i in (0, 1) for op, shape in (("qk", scores), ("av", context))]


def test_routing_again_changes_nothing() -> None:
    model = tiny("vit")
    names = route_matmuls_(model, images())
    classes = [type(module) for module in model.modules()]
    assert route_matmuls_(model, images()) == names == ["blocks.0.attn", "blocks.1.attn"]
    assert [type(module) for module in model.modules()] == classes


def test_a_routed_copy_has_its_own_submodules() -> None:
    model = routed("vit")
    twin = copy.deepcopy(model)
    assert torch.equal(twin(images()), model(images()))
    twin.blocks[0].attn.qk = Doubled()
    assert not torch.allclose(twin(images()), model(images()))
    assert isinstance(model.blocks[0].attn.qk, MatMul)


def test_gradients_equal_those_of_the_fused_model() -> None:
    plain, ours = tiny("vit").double(), routed("vit").double()  # `.double()` moves a routed model as `.to(device)` does
    for model in (plain, ours):
        model.train()(images(2).double()).square().sum().backward()
    for expected, found in zip(plain.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_routed_model_runs_on_cuda() -> None:
    model = routed("vit")
    expected = model(images())
    torch.testing.assert_close(model.to("cuda")(images().to("cuda")).cpu(), expected, rtol=1e-3, atol=1e-3)


def test_train_flags_are_left_as_they_were() -> None:
    model = tiny("vit").train()
    model.blocks[1].eval()
    before = {name: module.training for name, module in model.named_modules()}
    route_matmuls_(model, images())
    survey(model, images())
    after = {name: module.training for name, module in model.named_modules()}
    assert {name: after[name] for name in before} == before
    assert (after["blocks.0.attn.qk"], after["blocks.1.attn.qk"]) == (True, False)


class Doubled(nn.Module):
    """A stand-in for a quantized product: makes matrix products of its own."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b + a @ b


def test_products_inside_a_replaced_submodule_are_not_routed_again() -> None:
    model = routed("vit")
    attention = model.blocks[0].attn
    x = torch.randn(1, 17, 24)
    single = attention(x) - attention.proj.bias
    attention.av = Doubled()
    torch.testing.assert_close(attention(x) - attention.proj.bias, 2 * single)


def test_a_product_that_appears_after_routing_is_refused() -> None:
    class Rotated(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x @ torch.eye(x.shape[-1]))

    model = routed("vit")
    model.blocks[0].attn.qkv = Rotated(24, 72)
    with pytest.raises(RuntimeError, match="made 3 matrix products, expected the 2"):
        model(images())


def test_taken_names_are_refused_before_anything_is_routed() -> None:
    model = timm.create_model("convit_tiny", img_size=32, patch_size=8, embed_dim=6, depth=1, local_up_to_layer=1)
    with pytest.raises(InputError, match=r"blocks\.0\.attn \(GPSA\) already has an attribute 'qk'"):
        route_matmuls_(model.eval(), images())


def test_a_resnet_is_not_a_transformer() -> None:
    model = load_model("random:resnet10t")
    for refuse in (route_matmuls_, survey):
        with pytest.raises(InputError, match=r"resnet10t has no attention.*timm's ViT, DeiT, Swin"):
            refuse(model, images())


# --- survey


@pytest.mark.parametrize("family", TINY)
def test_macs_agree_with_torch(family: str) -> None:
    model = routed(family)
    with FlopCounterMode(display=False) as counter:
        model(images())
    macs = sum(layer.macs for layer in survey(model, images()))
    around = sum(c.macs for c in probe(model, images()).calls if c.weight in bypassed(model, images()))
    assert macs + around == pytest.approx(counter.get_total_flops() / 2, rel=1e-3)
    assert (around > 0) == (family in ("swinv2", "beit", "eva02"))


def kinds(model: nn.Module) -> list[tuple[str, int | None]]:
    return [(layer.kind, layer.block) for layer in survey(model, images())]


@pytest.mark.parametrize("depth", [1, 2])
def test_kinds_of_a_vit(depth: int) -> None:
    blocks = [(kind, block) for block in range(depth) for kind in BLOCK]
    assert kinds(routed("vit", depth=depth)) == [("patch", None), *blocks, ("head", None)]


def test_both_heads_of_a_distilled_model() -> None:
    assert kinds(routed("distilled"))[-2:] == [("head", None)] * 2


def test_swin_merges_between_its_stages() -> None:
    found = kinds(routed("swin"))
    assert found[:8] == [("patch", None), *((kind, 0) for kind in BLOCK), ("merge", None)]
    assert found[8:] == [*((kind, 1) for kind in BLOCK), *((kind, 2) for kind in BLOCK), ("head", None)]


def test_attention_pooling_is_a_block() -> None:
    pool = [(kind, 2) for kind in ("qkv", "qkv", "scores", "context", "proj", "fc1", "fc2")]
    assert kinds(routed("siglip"))[-8:] == [*pool, ("head", None)]


def test_swinv2_bias_table_is_other_and_its_qkv_is_bypassed() -> None:
    model = routed("swinv2")
    first = [kind for kind, block in kinds(model) if block == 0]
    assert first == ["scores", "other", "other", "context", "proj", "fc1", "fc2"]
    assert bypassed(model, images()) == [f"layers.{i}.blocks.{j}.attn.qkv" for i, j in ((0, 0), (1, 0), (1, 1))]


def test_beit_qkv_is_bypassed_and_vit_bypasses_nothing() -> None:
    assert bypassed(routed("beit"), images()) == ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]
    assert bypassed(routed("vit"), images()) == []


def test_a_classifier_of_two_layers_is_no_mlp_of_a_block() -> None:
    model = routed("vit")
    model.head = nn.Sequential(nn.Linear(24, 11), nn.Linear(11, 7))
    assert kinds(model)[-3:] == [("fc2", 1), ("other", None), ("head", None)]


def test_counts_of_a_vit_by_hand() -> None:
    layers = {layer.name: layer for layer in survey(routed("vit"), images())}
    tokens, width = 17, 24
    patch, qkv = layers["patch_embed.proj"], layers["blocks.0.attn.qkv"]
    assert (patch.weights, patch.channels, patch.bias, patch.inputs) == (24 * 3 * 64, 24, 24, 3 * 32 * 32)
    assert (patch.macs, patch.outputs) == (16 * 24 * 3 * 64, 16 * 24)
    assert (qkv.weights, qkv.channels, qkv.bias, qkv.heads) == (width * 72, 72, 72, 2)
    assert (qkv.macs, qkv.inputs, qkv.outputs) == (tokens * width * 72, tokens * width, tokens * 72)
    scores, context = layers["blocks.0.attn.qk"], layers["blocks.0.attn.av"]
    assert scores.is_matmul
    assert (scores.heads, scores.inputs, scores.outputs) == (2, 2 * tokens * width, 2 * tokens**2)
    assert scores.macs == context.macs == tokens * tokens * width
    assert context.inputs == 2 * tokens**2 + tokens * width


def test_unrouted_names_attention_that_stays_float() -> None:
    assert unrouted(tiny("vit"), images()) == ["blocks.0.attn", "blocks.1.attn"]


def test_survey_of_an_unrouted_model_is_refused() -> None:
    with pytest.raises(InputError, match="no attention that can be quantized"):
        survey(tiny("vit"), images())


def test_a_batch_is_no_example() -> None:
    with pytest.raises(ValueError, match="one image"):
        survey(routed("vit"), images(2))


# --- loading


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny ViT in timm's local-dir layout."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=7, **PLAIN)
    timm.models.save_for_hf(model, str(tmp_path / "saved"), safe_serialization=True)
    return tmp_path / "saved"


def test_a_folder_loads_with_its_own_preprocessing(folder: Path) -> None:
    model = load_model(f"local-dir:{folder}")
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.state_dict()["head.weight"], load_file(folder / "model.safetensors")["head.weight"])
    config = preprocessing(model)
    assert json.loads(json.dumps(config)) == config
    assert config["input_size"] == [3, 32, 32]
    assert transform(model)(Image.new("RGB", (50, 40))).shape == (3, 32, 32)


def test_random_weights_are_seeded_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two = load_model("random:vit_tiny_patch16_224"), load_model("random:vit_tiny_patch16_224")
    assert torch.equal(torch.rand(1), expected)
    assert weights_hash(one) == weights_hash(two)


def test_the_hash_sees_weights_and_not_routing() -> None:
    model = tiny("vit")
    before = weights_hash(model)
    assert len(before) == 16
    route_matmuls_(model, images())
    assert weights_hash(model) == before
    with torch.no_grad():
        model.head.bias[0] += 1
    assert weights_hash(model) != before


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_a_checkpoint_replaces_the_weights(folder: Path, tmp_path: Path, suffix: str) -> None:
    weights = {key: value + 1 for key, value in load_file(folder / "model.safetensors").items()}
    file = tmp_path / f"weights{suffix}"
    save_file(weights, file) if suffix == ".safetensors" else torch.save({"model": weights}, file)
    (folder / "model.safetensors").unlink()  # not needed beside a checkpoint
    model = load_model(f"local-dir:{folder}", checkpoint=str(file))
    assert torch.equal(model.state_dict()["head.bias"], weights["head.bias"])


def test_a_checkpoint_that_does_not_fit_is_described_at_once(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["head.weight"] = torch.zeros(9, 24)
    weights["extra"] = weights.pop("norm.weight")
    save_file(weights, tmp_path / "other.safetensors")
    with pytest.raises(InputError) as error:
        load_model(f"local-dir:{folder}", checkpoint=str(tmp_path / "other.safetensors"))
    assert "1 missing (norm.weight), 1 unexpected (extra)" in str(error.value)
    assert "1 of another size (head.weight is (9, 24), not (7, 24))" in str(error.value)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("none.pth", None, "does not exist"),
        ("bad.pth", b"not a checkpoint", "cannot be read as weights"),
        ("bad.safetensors", b"not a checkpoint", "cannot be read as weights"),
        ("list.pth", [1, 2], "holds no state dict"),
        ("code.pth", Path, "cannot be read as weights"),  # would run code if it were unpickled
    ],
)
def test_a_bad_checkpoint(folder: Path, tmp_path: Path, file: str, content: object, said: str) -> None:
    if isinstance(content, bytes):
        (tmp_path / file).write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / file)
    with pytest.raises(InputError, match=said):
        load_model(f"local-dir:{folder}", checkpoint=str(tmp_path / file))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("deit_tinny_patch16_224", "no model 'deit_tinny_patch16_224'.*deit_tiny_patch16_224"),
        ("deit_tiny_patch16_224.fb_in2k", "no weights 'fb_in2k'.*deit_tiny_patch16_224.fb_in1k"),
        ("qqqqqqqqqqqq", r"timm\.list_models\(\)"),
        ("timm/deit_tiny", "Write `hf-hub:timm/deit_tiny` or `local-dir:timm/deit_tiny`"),
        ("random:deit_tinny_patch16_224", "deit_tiny_patch16_224"),
        ("", "not one of timm's"),
    ],
)
def test_an_unknown_name(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_model(name)


def test_a_bad_folder(folder: Path, tmp_path: Path) -> None:
    def refused(said: str) -> None:
        with pytest.raises(InputError, match=said):
            load_model(f"local-dir:{folder}")

    with pytest.raises(InputError, match="does not exist"):
        load_model(f"local-dir:{tmp_path / 'nowhere'}")
    config = json.loads((folder / "config.json").read_text())
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    refused("model.safetensors cannot be read as weights, it is truncated or damaged")
    (folder / "model.safetensors").unlink()
    refused("has no model.safetensors")
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text(json.dumps({**config, "model_args": {**config["model_args"], "depth": 3}}))
    refused("does not load as vit_tiny_patch16_224")
    (folder / "config.json").write_text(json.dumps({**config, "architecture": "no_such_model"}))
    refused("names the architecture 'no_such_model'")
    (folder / "config.json").write_text("{")
    refused("config.json is not valid JSON")
    (folder / "config.json").unlink()
    refused("has no config.json")


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "hf-hub:someone/something"])
def test_an_unreachable_hub_says_what_works_offline(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: refused at once
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    before = constants.HF_HUB_OFFLINE
    with pytest.raises(
        InputError, match=r"hub cannot be reached.*`builtin`, `local-dir:<folder>`.*checkpoint file work"
    ):
        load_model(name)
    assert before == constants.HF_HUB_OFFLINE
    assert "Retrying" not in capfd.readouterr().err


def test_the_builtin_model_loads_where_it_has_been_made() -> None:
    if not (assets_dir() / "models" / "digits_vit" / "model.safetensors").is_file():
        pytest.skip("assets/models/digits_vit has not been made yet")
    model = load_model("builtin")
    example = torch.zeros(1, *preprocessing(model)["input_size"])
    assert len(route_matmuls_(model, example)) == 12


# --- real weights


@pytest.fixture(scope="module")
def deit() -> nn.Module:
    if not DEIT.is_dir():
        pytest.skip("real DeiT-Tiny weights are not beside the repository (../shared/models)")
    return load_model(f"local-dir:{DEIT}")


def test_deit_tiny_has_50_layers_and_24_matmuls(deit: nn.Module) -> None:
    model, x = copy.deepcopy(deit), images(size=224)
    expected = model(x)
    assert len(route_matmuls_(model, x)) == 12
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-4)
    layers = survey(model, x)
    each = dict.fromkeys(BLOCK, 12)
    assert Counter(layer.kind for layer in layers) == {"patch": 1, **each, "head": 1}
    assert [layer.block for layer in layers[1:-1]] == [block for block in range(12) for _ in BLOCK]
    assert {layer.heads for layer in layers if layer.kind in ("qkv", "scores", "context")} == {3}
    with FlopCounterMode(display=False) as counter:
        model(x)
    assert sum(layer.macs for layer in layers) == pytest.approx(counter.get_total_flops() / 2, rel=1e-3)
    assert bypassed(model, x) == unrouted(model, x) == []


def test_deit_tiny_preprocessing(deit: nn.Module) -> None:
    config = preprocessing(deit)
    assert (config["input_size"], config["crop_pct"], config["interpolation"]) == ([3, 224, 224], 0.9, "bicubic")
