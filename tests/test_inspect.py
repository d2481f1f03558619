"""A close look at a layer and at an image: records that are kept, and that say what quantization really does."""

from __future__ import annotations

import base64
import itertools
from pathlib import Path

import pytest
import torch

from lampq_engine.errors import InputError
from lampq_engine.files import read_json
from lampq_engine.inspection import image_path, image_view, layer_path, layer_view
from lampq_engine.recipe import DataSpec, Recipe
from lampq_engine.steps import Loaded, analyse, inspect_image, inspect_layer
from lampq_engine.steps.inspect import _received
from lampq_engine.store import Study, create_study
from lampq_engine.traces import traces
from lampq_engine.types import Bits


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Loaded]:
    data = DataSpec(calibration_images=40, validation_images=40)
    study = create_study(Recipe(data=data), tmp_path_factory.mktemp("studies"), name="small")
    return study, analyse(study, also=())


@pytest.mark.parametrize("name", ["blocks.3.mlp.fc2", "blocks.3.attn.qkv", "patch_embed.proj", "blocks.3.attn.qk"])
def test_a_layer_is_seen_as_it_is_quantized(made: tuple[Study, Loaded], name: str) -> None:
    study, loaded = made
    assert layer_view(study, name, Bits(3, 4)) is None
    view = inspect_layer(study, name, Bits(3, 4), loaded=loaded)
    assert layer_view(study, name, Bits(3, 4)) == view
    layer = next(one for one in loaded.layers if one.name == name)
    assert sum(view.counts) == layer.weights
    assert len(view.grid) == (0 if layer.is_matmul else 8)
    assert len(view.inputs) == (2 if layer.is_matmul or view.folded else 1)
    assert [error.bits for error in view.errors] == list(range(2, 9))
    assert all(a.output > b.output for a, b in itertools.pairwise(view.errors))
    assert view.folded == (name == "blocks.3.attn.qkv")
    shares = [channel.share for channel in view.worst]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 1 + 1e-6
    for operand in view.inputs:
        for low, bulk_low, bulk_high, high in zip(
            operand.low, operand.bulk_low, operand.bulk_high, operand.high, strict=True
        ):
            assert low <= bulk_low + 1e-3 * abs(low) + 1e-6  # each is kept with four digits
            assert bulk_low <= bulk_high
            assert bulk_high <= high + 1e-3 * abs(high) + 1e-6


def test_a_look_is_kept_and_a_stale_one_is_not_shown(made: tuple[Study, Loaded]) -> None:
    study, loaded = made
    inspect_layer(study, "blocks.0.attn.proj", Bits(4, 4), loaded=loaded)
    path = layer_path(study, "blocks.0.attn.proj", Bits(4, 4))
    before = path.stat().st_mtime_ns
    inspect_layer(study, "blocks.0.attn.proj", Bits(4, 4))  # nothing is loaded: it is there
    assert path.stat().st_mtime_ns == before
    path.write_text(path.read_text().replace(read_json(path)["key"], "0" * 16))
    assert layer_view(study, "blocks.0.attn.proj", Bits(4, 4)) is None
    path.write_text("{")
    with pytest.raises(InputError, match="damaged"):
        layer_view(study, "blocks.0.attn.proj", Bits(4, 4))


def test_attention_on_an_image_before_and_after(made: tuple[Study, Loaded]) -> None:
    study, loaded = made
    coarse, fine = (inspect_image(study, 3, what, loaded=loaded) for what in ("2/2", "8/8"))
    assert image_view(study, 3, "2/2") == coarse
    assert image_path(study, 3, "2/2").is_file()
    assert coarse.name == loaded.data.calibration.names[3]
    assert base64.b64decode(coarse.png).startswith(b"\x89PNG")
    assert coarse.blocks == [str(block) for block in range(12)]
    for view in (coarse, fine):
        for before, after in view.maps:
            assert sum(map(sum, before)) == pytest.approx(1, abs=0.01)
            assert sum(map(sum, after)) == pytest.approx(1, abs=0.01)
    assert coarse.before == fine.before
    x = loaded.data.calibration.batch([3])
    with torch.no_grad():
        chances = loaded.model(x).softmax(-1)[0]
    assert coarse.before == [float(chances.argmax()), pytest.approx(float(chances.max()), abs=1e-5)]

    def moved(view) -> float:  # type: ignore[no-untyped-def]
        return float(
            (torch.tensor([old for old, _ in view.maps]) - torch.tensor([new for _, new in view.maps])).abs().sum()
        )

    assert moved(coarse) > 2 * moved(fine)


def test_what_is_not_there_is_said(made: tuple[Study, Loaded]) -> None:
    study, loaded = made
    with pytest.raises(InputError, match=r"no layer 'blocks\.99'"):
        inspect_layer(study, "blocks.99", Bits(4, 4), loaded=loaded)
    with pytest.raises(InputError, match="no calibration image 40"):
        inspect_image(study, 40, "4/4", loaded=loaded)


def test_the_traces_of_single_images_are_read_without_torch(made: tuple[Study, Loaded]) -> None:
    study, loaded = made
    found, raw = traces(study), study.sensitivity("fisher").raw
    assert set(found) == set(raw)
    for name, values in found.items():
        assert values.shape == (len(loaded.data.calibration),)
        assert float(values.mean()) == pytest.approx(raw[name])


def test_a_study_without_traces(tmp_path: Path) -> None:
    assert traces(create_study(Recipe(), tmp_path)) == {}


def test_attention_becomes_a_picture_with_and_without_a_class_token() -> None:
    source = torch.Generator().manual_seed(0)

    def shares(windows: int, tokens: int) -> torch.Tensor:
        return torch.rand(windows, 2, tokens, tokens, generator=source).softmax(-1)

    with_class = shares(1, 17)
    picture = torch.tensor(_received(with_class))
    given = with_class.mean(1)[0, 0, 1:].view(4, 4)
    assert torch.allclose(picture, given / given.sum(), rtol=1e-3)
    windows = shares(4, 9)  # two by two windows of three by three patches
    picture = torch.tensor(_received(windows))
    got = windows.mean(1).mean(1).view(4, 3, 3)
    assert picture.shape == (6, 6)
    assert torch.allclose(picture[:3, 3:], got[1] / got.sum(), rtol=1e-3)
    assert torch.allclose(picture[3:, :3], got[2] / got.sum(), rtol=1e-3)
