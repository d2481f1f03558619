"""The models on offer, as a table: `python assets/list_models.py [--results results-imagenet.csv]` writes `models.csv`.

Parameters and MACs are counted on the model itself, built without weights; top-1 is what timm publishes in
`results/results-imagenet.csv` of huggingface/pytorch-image-models (ImageNet-1k validation, 50000 images). Without
that file the figures that `models.csv` has already are kept.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import timm
import timm.models
import torch
from torch.utils.flop_counter import FlopCounterMode

TABLE = Path(__file__).parent / "models.csv"
FAMILIES = {
    "vit": "ViT",
    "deit": "DeiT",
    "deit3": "DeiT III",
    "swin": "Swin",
    "swinv2": "Swin V2",
    "beit": "BEiT",
    "beitv2": "BEiT v2",
    "eva02": "EVA-02",
    "flexivit": "FlexiViT",
}
CLASSES = 1000  # ImageNet-1k: what an image folder with wnids maps to


@dataclass(frozen=True)
class Offer:
    """One row: a timm name with its pretrained weights."""

    model: str
    family: str
    parameters_m: float  # millions
    gmacs: float  # billions of multiply-accumulates for one image
    input_px: int
    top1: str  # percent on ImageNet-1k's validation set as timm publishes it; empty where it does not


def names() -> Iterator[tuple[str, str]]:
    """Every pretrained ImageNet-1k classifier of the families, with its family."""
    for name in timm.list_models(pretrained=True, exclude_filters=["*dlittle*", "*_gap_*", "*test_*"]):
        family = FAMILIES.get(name.split("_")[0])
        config = timm.models.get_pretrained_cfg(name)
        if family and config is not None and config.num_classes == CLASSES:
            yield name, family


def counted(architecture: str) -> tuple[float, float]:
    """Parameters and MACs of one image, on the meta device: no weight is made."""
    with torch.device("meta"):
        model = timm.create_model(architecture).eval().requires_grad_(False)
        side = timm.models.get_pretrained_cfg(architecture).input_size  # type: ignore[union-attr]
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, *side))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() / 2


def published(path: Path | None) -> dict[str, str]:
    """Top-1 by name: from timm's results file, else from the table as it is."""
    source = path or TABLE
    if not source.is_file():
        return {}
    with source.open(newline="") as file:
        return {row["model"]: row["top1"] for row in csv.DictReader(file) if row["top1"]}


def main() -> None:
    """Write the table, smallest models first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--results", type=Path, default=None, help="timm's results-imagenet.csv")
    top1, counts, rows = published(parser.parse_args().results), {}, []
    for name, family in names():
        architecture = name.partition(".")[0]
        if architecture not in counts:
            counts[architecture] = counted(architecture)
        parameters, macs = counts[architecture]
        side = timm.models.get_pretrained_cfg(name).input_size[-1]  # type: ignore[union-attr]
        found = top1.get(name, "")
        rows.append(Offer(name, family, round(parameters / 1e6, 2), round(macs / 1e9, 3), side, found))
    rows.sort(key=lambda row: (row.parameters_m, row.gmacs, row.model))
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Offer)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    print(f"{TABLE}: {len(rows)} models, {sum(bool(row.top1) for row in rows)} with a published top-1")


if __name__ == "__main__":
    main()
