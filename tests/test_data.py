"""The data package: every source, every layout, every complaint, on images made here."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo, create_transform, resolve_data_config

import lampq_engine.data.pool as pool_module
from lampq_engine.data import Dataset, load_dataset
from lampq_engine.data.pool import stratified_order
from lampq_engine.errors import InputError

CONFIG: dict[str, Any] = {
    "input_size": (3, 16, 16),
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.3, 0.4),
    "interpolation": "bicubic",
    "crop_pct": 0.9,
    "crop_mode": "center",
}
GREY = CONFIG | {"input_size": (1, 16, 16), "mean": (0.5,), "std": (0.2,)}
SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def make_images(root: Path, classes: dict[str, int], *, seed: int = 0) -> Path:
    """A folder of small random PNGs: class name -> how many."""
    rng = np.random.default_rng(seed)
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:03d}.png")
    return root


def load(source: str | Path, **asked: Any) -> Dataset:
    defaults: dict[str, Any] = {
        "model_config": CONFIG,
        "num_classes": 3,
        "calibration_images": 4,
        "validation_images": 6,
        "seed": 0,
    }
    return load_dataset(str(source), **defaults | asked)


def digits(**asked: Any) -> Dataset:
    return load("builtin", **{"model_config": GREY, "num_classes": 10, **asked})


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    return make_images(tmp_path / "flat", {"ant": 10, "bee": 10, "cat": 10})


def disjoint(data: Dataset) -> bool:
    return not set(data.calibration.contents) & set(data.validation.contents)


def complaint(call: Callable[[], Any], *words: str) -> str:
    """The sentence of the InputError that a call raises, after checking that it says all of `words`."""
    with pytest.raises(InputError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
    assert caught.value.expected
    assert caught.value.todo
    return str(caught.value)


# Images


def test_images_hand_out_the_same_tensors_in_every_way(flat: Path) -> None:
    images = load(flat, validation_images=7).validation
    everything = images.tensor()
    assert everything.shape == (7, 3, 16, 16)
    assert everything.dtype == torch.float32
    parts = list(images.batches(3))
    assert [len(labels) for _, labels in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([inputs for inputs, _ in parts]), everything)
    assert torch.equal(torch.cat([labels for _, labels in parts]), images.labels)
    assert torch.equal(images.batch([5, 2]), everything[[5, 2]])
    some = images.subset([6, 0])
    assert some.names == (images.names[6], images.names[0])
    assert torch.equal(some.tensor(), everything[[6, 0]])
    assert torch.equal(some.subset([1]).tensor(), everything[[0]])
    assert some.labels.tolist() == images.labels[[6, 0]].tolist()


def test_hash_tells_lists_apart_and_not_places(tmp_path: Path) -> None:
    here = load(make_images(tmp_path / "a", {"ant": 5, "bee": 5, "cat": 5})).validation
    there = load(make_images(tmp_path / "b", {"ant": 5, "bee": 5, "cat": 5})).validation
    other = load(make_images(tmp_path / "c", {"ant": 5, "bee": 5, "cat": 5}, seed=1)).validation
    assert here.hash == there.hash
    assert len(here.hash) == 16
    assert len({here.hash, other.hash, here.subset(range(5)).hash, here.subset([1, 0, 2, 3, 4, 5]).hash}) == 4


def test_preprocessing_is_the_models_own(flat: Path) -> None:
    images = load(flat).validation
    with Image.open(flat / images.names[3]) as image:
        assert torch.equal(images.tensor()[3], create_transform(**CONFIG)(image.convert("RGB")))


def test_grey_model_reads_colour_images_in_grey(flat: Path) -> None:
    colour_statistics = GREY | {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
    expected = load(flat, model_config=GREY).validation.tensor()
    assert expected.shape == (6, 1, 16, 16)
    assert torch.allclose(load(flat, model_config=colour_statistics).validation.tensor(), expected)
    complaint(lambda: load(flat, model_config=GREY | {"input_size": (4, 16, 16)}), "4 channels", "Expected 1 (grey)")


def test_a_set_too_large_for_memory_is_decoded_again(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = load(flat).validation
    monkeypatch.setattr(pool_module, "CACHE_BYTES", 0)
    again = load(flat).validation
    assert torch.equal(kept.tensor(), again.tensor())
    assert kept.hash == again.hash
    assert again.source(0) is not again.source(0)
    assert kept.source(0) is kept.source(0)


# The draw


def test_same_seed_same_lists_other_seed_other_lists(flat: Path) -> None:
    first, again, other = load(flat), load(flat), load(flat, seed=1)
    assert first.calibration.names == again.calibration.names
    assert first.validation.names == again.validation.names
    assert first.calibration.names != other.calibration.names
    assert first.validation.names != other.validation.names
    assert first.seed == 0
    assert first.source == str(flat)


def test_every_prefix_of_the_order_is_stratified() -> None:
    labels = [0] * 60 + [1] * 30 + [2] * 10
    order = stratified_order(labels, seed=3)
    assert sorted(order) == list(range(100))
    for n in range(1, 101):
        for label, share in ((0, 0.6), (1, 0.3), (2, 0.1)):
            assert abs(sum(labels[i] == label for i in order[:n]) - share * n) < 2


@pytest.mark.parametrize(("calibration", "validation", "sizes"), [(4, 0, (4, 26)), (0, 6, (24, 6)), (0, 0, (15, 15))])
def test_zero_means_all_that_the_other_split_leaves(
    flat: Path, calibration: int, validation: int, sizes: tuple[int, int]
) -> None:
    data = load(flat, calibration_images=calibration, validation_images=validation)
    assert (len(data.calibration), len(data.validation)) == sizes
    assert disjoint(data)


def test_changing_one_count_leaves_the_measured_images_alone(flat: Path) -> None:
    assert load(flat, calibration_images=9).validation.names == load(flat, calibration_images=2).validation.names


# The built-in digits


def test_digits_split_is_fixed_and_calibration_follows_the_seed() -> None:
    whole = digits(calibration_images=0, validation_images=0)
    assert (len(whole.calibration), len(whole.validation)) == (1347, 450)
    held_out = set(whole.validation.names)
    assert not held_out & set(whole.calibration.names)
    assert disjoint(whole)
    assert not whole.skipped
    assert whole.validation.labels.bincount().min() >= 42
    for seed in (1, 2):
        other = digits(calibration_images=64, validation_images=0, seed=seed)
        assert set(other.validation.names) == held_out
        assert other.calibration.labels.bincount().min() >= 5
    assert digits(seed=1).calibration.names != digits(seed=2).calibration.names
    assert all(name.startswith("digits/") and len(name) == 11 for name in held_out)


def test_digits_are_upscaled_whole_and_normalised() -> None:
    from sklearn.datasets import load_digits

    images = digits(model_config=GREY | {"interpolation": "nearest"}).validation
    row = int(images.names[0].removeprefix("digits/"))
    scans, labels = load_digits(return_X_y=True)
    expected = np.kron(np.round(scans[row].reshape(8, 8) * 255 / 16), np.ones((2, 2))) / 255
    assert torch.allclose(images.tensor()[0, 0], torch.tensor((expected - 0.5) / 0.2, dtype=torch.float32), atol=1e-6)
    assert images.labels[0] == labels[row]
    colour = digits(model_config=CONFIG).validation.tensor()
    assert colour.shape == (6, 3, 16, 16)


def test_digits_complain_about_another_head_and_another_folder() -> None:
    complaint(lambda: digits(num_classes=1000), "10 classes", "1000")
    complaint(lambda: digits(calibration_source="elsewhere"), "its own calibration images")
    complaint(lambda: digits(calibration_images=1348), "1347 images for calibration", "Expected 1348")


# Image folders


@pytest.mark.parametrize("names", [("calibration", "validation"), ("train", "val")])
def test_folder_with_splits(tmp_path: Path, names: tuple[str, str]) -> None:
    make_images(tmp_path / names[0], {"ant": 5, "bee": 5}, seed=1)
    make_images(tmp_path / names[1], {"ant": 4, "cat": 4}, seed=2)
    data = load(tmp_path, validation_images=0)
    assert len(data.validation) == 8
    assert set(data.validation.labels.tolist()) == {0, 2}
    assert set(data.calibration.labels.tolist()) == {0, 1}


def test_folder_with_one_split_only_serves_both(tmp_path: Path) -> None:
    make_images(tmp_path / "val", {"ant": 5, "bee": 5, "cat": 5})
    data = load(tmp_path)
    assert (len(data.calibration), len(data.validation)) == (4, 6)
    assert disjoint(data)


def test_a_class_named_like_a_split_is_still_a_class(tmp_path: Path) -> None:
    data = load(make_images(tmp_path, {"train": 8, "tram": 8, "bus": 8}))
    assert {name.split("/")[0] for name in data.validation.names} == {"bus", "train", "tram"}


def test_two_folders_share_no_image(tmp_path: Path) -> None:
    make_images(tmp_path / "one", {"ant": 4, "bee": 4, "cat": 4}, seed=1)
    make_images(tmp_path / "two", {"ant": 4, "bee": 4, "cat": 4}, seed=2)
    copy = tmp_path / "two" / "bee" / "renamed.png"
    copy.write_bytes((tmp_path / "one" / "bee" / "001.png").read_bytes())
    source, other = tmp_path / "one", str(tmp_path / "two")
    data = load(source, calibration_source=other, calibration_images=0, validation_images=0)
    assert (len(data.calibration), len(data.validation)) == (12, 12)
    assert disjoint(data)
    assert data.skipped == ("bee/renamed.png: same content as an image of the other split",)


def test_the_same_folder_twice_is_split(flat: Path) -> None:
    data = load(flat, calibration_source=str(flat))
    assert (len(data.calibration), len(data.validation)) == (4, 6)
    assert disjoint(data)


def test_copies_inside_one_folder_do_not_leak(tmp_path: Path) -> None:
    make_images(tmp_path, {"ant": 2, "bee": 2, "cat": 2})
    for i in range(2):
        for name in ("ant", "bee", "cat"):
            (tmp_path / name / f"copy{i}.png").write_bytes((tmp_path / name / f"{i:03d}.png").read_bytes())
    for seed in range(5):
        data = load(tmp_path, calibration_images=0, validation_images=3, seed=seed)
        assert disjoint(data)
        assert len(data.skipped) >= 1


def test_wnid_folders_map_to_imagenet_classes_and_not_to_folder_order(tmp_path: Path) -> None:
    wnids = ImageNetInfo("imagenet-1k").label_names()
    chosen = {wnids[i]: i for i in (3, 207, 999)}
    data = load(make_images(tmp_path, dict.fromkeys(chosen, 4)), num_classes=1000)
    for name, label in zip(data.validation.names, data.validation.labels.tolist(), strict=True):
        assert label == chosen[name.split("/")[0]]
    assert set(load(tmp_path, num_classes=3).validation.labels.tolist()) == {0, 1, 2}  # a head made for these three


def test_wnid_folders_map_to_larger_imagenets(tmp_path: Path) -> None:
    names = ImageNetInfo("imagenet-12k").label_names()
    data = load(make_images(tmp_path, {names[11000]: 6, names[5]: 6}), num_classes=11821)
    assert set(data.validation.labels.tolist()) == {5, 11000}


def test_class_folders_that_do_not_fit(tmp_path: Path, flat: Path) -> None:
    complaint(lambda: load(flat, num_classes=10), "3 class folders", "10 classes")
    complaint(lambda: load(flat, num_classes=1000), "3 class folders", "1000 classes", "n01440764")
    strange = make_images(tmp_path / "strange", {"n00000001": 9, "n01440764": 9})
    complaint(lambda: load(strange, num_classes=1000), "1 class folders that the model does not know: n00000001")
    complaint(lambda: load(strange, num_classes=7, labels="imagenet"), "7 classes", "no ImageNet variant")
    complaint(lambda: load(flat, labels="guess"), "'guess' is not a way", "auto, imagenet, sorted")
    assert set(load(strange, num_classes=2, labels="sorted").validation.labels.tolist()) == {0, 1}


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    complaint(lambda: load(tmp_path / "nowhere"), "There is no folder at", "nowhere", "Check the path")
    complaint(lambda: load(tmp_path), "is empty: it has no class folders")
    complaint(lambda: load(""), "No data is given")
    for name in ("ant", "bee", "cat"):
        (tmp_path / name).mkdir()
    complaint(lambda: load(tmp_path), "There is no image in the class folders", ".jpg")
    file = tmp_path / "file.png"
    Image.new("RGB", (8, 8)).save(file)
    complaint(lambda: load(file), "is not a folder")
    loose = tmp_path / "loose"
    loose.mkdir()
    Image.new("RGB", (8, 8)).save(loose / "a.png")
    complaint(lambda: load(loose), "holds images but no class folders", "a folder named after its class")
    complaint(lambda: load(make_images(tmp_path / "ok", {"ant": 9}), calibration_source=str(loose)), "loose")


def test_too_few_images(flat: Path) -> None:
    complaint(lambda: load(flat, validation_images=27), "30 images", "4 to calibrate and 27 to measure", "fewer images")
    complaint(lambda: load(flat, calibration_images=-1), "negative")
    other = str(flat)
    small = make_images(flat.parent / "small", {"ant": 1, "bee": 1, "cat": 1}, seed=5)
    complaint(lambda: load(small, calibration_source=other), "3 images for validation", "Expected 6")


def spoil(folder: Path) -> tuple[str, ...]:
    """Three files that end like images and are none; their names."""
    (folder / "ant" / "empty.jpg").write_bytes(b"")
    (folder / "bee" / "text.png").write_text("no image")
    whole = (folder / "cat" / "000.png").read_bytes()
    (folder / "cat" / "cut.png").write_bytes(whole[: len(whole) // 2])
    return ("ant/empty.jpg", "bee/text.png", "cat/cut.png")


def test_corrupt_images_are_named_skipped_and_replaced(flat: Path) -> None:
    names = spoil(flat)
    data = load(flat, calibration_images=18, validation_images=12)
    assert (len(data.calibration), len(data.validation)) == (18, 12)
    assert {line.split(": ")[0] for line in data.skipped} == set(names)
    assert len(data.skipped) == 3
    assert not set(names) & set(data.calibration.names + data.validation.names)
    assert "ant/empty.jpg: not an image that can be read" in data.skipped
    assert len(load(flat, calibration_images=0, validation_images=12).skipped) == 3


def test_too_few_images_after_corrupt_ones(flat: Path) -> None:
    spoil(flat)
    text = complaint(lambda: load(flat, calibration_images=20, validation_images=12), "18 images for calibration")
    assert "skipped, first" in text
    assert "Expected 20" in text
    assert len(load(flat, calibration_images=20, validation_images=0).validation) == 10


def test_a_decompression_bomb_is_skipped(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (60, 60)).save(flat / "ant" / "vast.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    data = load(flat, calibration_images=18, validation_images=12)
    assert data.skipped == ("ant/vast.png: too many pixels",)


# What timm reads


def idx(path: Path, values: np.ndarray) -> None:
    """A file in MNIST's own format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(">BBBB", 0, 0, 8, values.ndim) + struct.pack(f">{values.ndim}i", *values.shape)
    path.write_bytes(head + values.astype(np.uint8).tobytes())


def test_timm_reads_torchvision_sets(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for stem, count in (("train", 40), ("t10k", 20)):
        idx(tmp_path / "MNIST" / "raw" / f"{stem}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28)))
        idx(tmp_path / "MNIST" / "raw" / f"{stem}-labels-idx1-ubyte", np.arange(count) % 10)
    data = load(f"timm:torch/mnist@{tmp_path}", num_classes=10, model_config=GREY, validation_images=0)
    assert (len(data.calibration), len(data.validation)) == (4, 20)
    assert disjoint(data)
    assert data.validation.tensor().shape == (20, 1, 16, 16)
    assert [int(name) % 10 for name in data.validation.names] == data.validation.labels.tolist()
    complaint(lambda: load(f"timm:torch/mnist@{tmp_path}", num_classes=7), "10 classes", "7")


def test_timm_folder_reader_maps_wnids(tmp_path: Path) -> None:
    wnids = ImageNetInfo("imagenet-1k").label_names()
    for seed, split in enumerate(("train", "validation")):
        make_images(tmp_path / split, {wnids[9]: 5, wnids[500]: 5}, seed=seed)
    data = load(f"timm:folder@{tmp_path}", num_classes=1000)
    assert set(data.validation.labels.tolist()) == {9, 500}
    (tmp_path / "validation" / wnids[9] / "001.png").write_bytes(b"no image")
    data = load(f"timm:folder@{tmp_path}", num_classes=1000, validation_images=0)
    assert len(data.validation) == 9
    assert len(data.skipped) == 1
    assert "001.png" in data.skipped[0]


def test_timm_sets_that_only_stream_are_read_from_the_front(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream(torch.utils.data.IterableDataset[tuple[Image.Image, int]]):
        def __iter__(self) -> Any:
            rng = np.random.default_rng(0)
            return ((Image.fromarray(rng.integers(0, 256, (9, 9), dtype=np.uint8)), i % 3) for i in range(10**9))

    monkeypatch.setattr("lampq_engine.data.timm_sets.create_dataset", lambda name, split, **_: Stream())
    text = complaint(lambda: load("timm:wds/set", calibration_images=6), "0 images for calibration")
    assert "same content" in text  # this stream serves the same images for both splits


def test_hugging_face_sets_may_call_their_validation_split_test(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, split: str, download: bool, **_: Any) -> list[tuple[Image.Image, int]]:
        assert (name, download) == ("hfds/some/set", True)
        if split == "validation":
            raise ValueError('Unknown split "validation"')
        rng = np.random.default_rng(len(split))
        return [(Image.fromarray(rng.integers(0, 256, (9, 9), dtype=np.uint8)), i % 3) for i in range(12)]

    monkeypatch.setattr("lampq_engine.data.timm_sets.create_dataset", create)
    data = load("timm:hfds/some/set?download", validation_images=0)
    assert len(data.validation) == 12
    assert data.calibration.names[0].isdigit()
    complaint(lambda: load("timm:hfds/some/set?download", num_classes=2), "the label 2", "Expected labels from 0 to 1")


def test_timm_sets_that_are_not_there(tmp_path: Path) -> None:
    complaint(lambda: load(f"timm:torch/cifar10@{tmp_path}"), "timm cannot read the train split", "?download")
    complaint(lambda: load(f"timm:torch/nothing@{tmp_path}"), "timm cannot read", "nothing")
    complaint(lambda: load("timm:torch/cifar10"), "where the data lies", "timm:torch/cifar10@<folder>")
    complaint(lambda: load("timm:hfds/some/set"), "may be fetched from the network", "timm:hfds/some/set?download")


# Real ImageNet images


def imagenet(part: str) -> str:
    folder = SHARED / "data" / "imagenet_sample" / part
    if not folder.is_dir():
        pytest.skip(f"the ImageNet sample is not there: {folder.name}")
    return str(folder)


@pytest.mark.slow
def test_float_deit_tiny_scores_its_known_accuracy_on_the_sample() -> None:
    validation, calibration = imagenet("validation"), imagenet("calibration")
    model = timm.create_model(f"local-dir:{SHARED / 'models' / 'deit_tiny_patch16_224'}", pretrained=True).eval()
    data = load(
        validation,
        calibration_source=calibration,
        model_config=resolve_data_config({}, model=model),
        num_classes=model.num_classes,
        calibration_images=200,
        validation_images=400,
    )
    assert (len(data.calibration), len(data.validation)) == (200, 400)
    assert disjoint(data)
    assert not data.skipped
    with torch.inference_mode():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in data.validation.batches(50))
    assert right == 312
