"""A study made of plain numbers, whole on disk, for tests of figures and pages: no model, no image, no torch."""

from __future__ import annotations

import base64
import random
from dataclasses import asdict, replace
from pathlib import Path

from lampq_engine.allocate import Program, given, uniform
from lampq_engine.controls import decay, random_scores
from lampq_engine.cost import CostModel
from lampq_engine.files import write_bytes, write_json
from lampq_engine.plain import to_plain
from lampq_engine.predictions import Predictions, Truth, thumbnail, write_predictions, write_truth
from lampq_engine.recipe import AllocationSpec, Budgets, Recipe
from lampq_engine.records import sensitivity_plain
from lampq_engine.store import Study, Trial, create_study, write_trial
from lampq_engine.types import Allocation, Bits, Cell, Evaluation, Layer, Sensitivity

WIDTHS = (2, 3, 4, 5, 6, 7, 8)
TIED = tuple(Bits(b, b) for b in WIDTHS)
HALVES = tuple(Bits(b, 32) for b in WIDTHS) + tuple(Bits(32, b) for b in WIDTHS)
# a grey square
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR42mNsYIAAJgaKGAAmCACQtTEKkQAAAABJRU5ErkJggg=="
)
PULL = {"qkv": 3.0, "proj": 1.0, "fc1": 2.0, "fc2": 0.7}


def layers_of(blocks: int = 12, width: int = 96, tokens: int = 65) -> list[Layer]:
    """The layers of a small ViT, with its true counts of weights and MACs."""
    found = [Layer("patch_embed.proj", "patch", None, 16 * 3 * width, width, width, 16 * 3 * width * 64, 3 * 32 * 32)]
    shapes = {"qkv": (width, 3 * width), "proj": (width, width), "fc1": (width, 4 * width), "fc2": (4 * width, width)}
    modules = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    for block in range(blocks):
        for kind, (ins, outs) in shapes.items():
            name = f"blocks.{block}.{modules[kind]}"
            found.append(Layer(name, kind, block, ins * outs, outs, outs, ins * outs * tokens, ins * tokens))  # type: ignore[arg-type]
            if kind == "qkv":
                macs = tokens * tokens * width
                found.append(Layer(f"blocks.{block}.attn.qk", "scores", block, 0, 0, 0, macs, 2 * tokens * width))
                found.append(Layer(f"blocks.{block}.attn.av", "context", block, 0, 0, 0, macs, 2 * tokens * width))
    return [*found, Layer("head", "head", None, 10 * width, 10, 10, 10 * width, width)]


def fisher_of(layers: list[Layer], seed: int = 0) -> Sensitivity:
    source = random.Random(seed)
    raw = {}
    for layer in layers:
        if layer.kind in PULL:
            depth = 1 + 2.5 * abs((layer.block or 0) - 5) / 6
            raw[layer.name] = PULL[layer.kind] * depth * source.lognormvariate(0, 0.3)
    error = {name: 0.08 * score for name, score in raw.items()}
    cells = {name: decay(score, error[name], TIED + HALVES, 4.0) for name, score in raw.items()}
    return Sensitivity("fisher", "nats²", 256, cells, raw=raw, raw_error=error, notes={"seconds": 2.1})


def lampq_of(fisher: Sensitivity, layers: list[Layer]) -> Sensitivity:
    factors = {"qkv": 0.8, "proj": 2.9, "fc1": 1.1, "fc2": 3.4}
    kinds = {layer.name: layer.kind for layer in layers}
    raw = {name: score * factors[kinds[name]] for name, score in fisher.raw.items()}
    error = {name: 0.1 * score for name, score in raw.items()}
    cells = {name: decay(score, error[name], TIED + HALVES, 4.0) for name, score in raw.items()}
    notes = [{"kind": k, "alpha": f, "error": 0.2, "drop": 5.0, "layers": ["a", "b"]} for k, f in factors.items()]
    return Sensitivity("lampq", "points", 256, cells, raw=raw, raw_error=error, notes={"factors": notes})


def harm_of(layers: list[Layer], seed: int = 1) -> Sensitivity:
    source = random.Random(seed)
    cells: dict[str, dict[Bits, Cell]] = {}
    for layer in layers:
        scale = 0.05 * source.lognormvariate(0, 0.5)
        cells[layer.name] = {b: Cell(scale * 4.0 ** -(min(b) - 2), 0.1 * scale) for b in (*TIED, *HALVES)}
    return Sensitivity("harm", "nats", 64, cells, notes={"seconds": 20.0})


def make_study(
    root: Path, *, trials: bool = True, blocks: int = 12, recipe: Recipe | None = None, predictions: bool = True
) -> Study:
    """A study under `root` as `analyse` would leave it, with a PTQ trial, four controls and a QAT trial."""
    recipe = recipe or Recipe()
    study, layers = create_study(recipe, root), layers_of(blocks)
    fisher = fisher_of(layers)
    tables = {"fisher": fisher, "lampq": lampq_of(fisher, layers), "harm": harm_of(layers)}
    tables["output"] = replace(tables["harm"], metric="output", raw=fisher.raw, raw_error=fisher.raw_error)
    tables["random"] = random_scores(layers, TIED + HALVES, base=4.0, seed=0)
    value = {"layers": [asdict(layer) for layer in layers], "fixed_bytes": 40_000, "bypassed": []}
    write_json(study.path / "layers.json", {"key": "made", "value": value})
    analysis = {"weights_hash": "0123456789abcdef", "images_hash": "fedcba9876543210", "device": "cpu"}
    analysis |= {"versions": {"torch": "2.15.0"}, "counts": {"calibration": 256, "validation": 359}, "skipped": []}
    write_json(study.path / "analysis.json", analysis)
    write_json(study.path / "float.json", {"key": "made", "value": to_plain(Evaluation(359, 97.5, 99.7, 0.09))})
    for name, table in tables.items():
        write_json(study.path / f"sensitivity/{name}.json", {"key": "made", "value": sensitivity_plain(table)})
    if trials:
        _write_trials(study, recipe, tables["lampq"])
        if predictions:
            keep_predictions(study)
    return study


def keep_predictions(study: Study) -> None:
    """Predictions of every trial that agree with its accuracy, and a picture of every image that flips."""
    source, count = random.Random(7), study.float_evaluation.images
    labels = tuple(i % 10 for i in range(count))
    whole = _predictions(labels, study.float_evaluation.top1, source)
    images = tuple(f"digits/{i:04d}" for i in range(count))
    write_truth(study, Truth(whole, labels, images, {digit: str(digit) for digit in range(10)}))
    for trial in study.trials():
        found = _predictions(labels, trial.evaluation.top1, source)
        write_predictions(trial.path, found)
        for position in range(count):
            if found.classes[position] != whole.classes[position]:
                write_bytes(thumbnail(study, position), PICTURE)


def _predictions(labels: tuple[int, ...], top1: float, source: random.Random) -> Predictions:
    wrong = set(source.sample(range(len(labels)), len(labels) - round(top1 * len(labels) / 100)))
    classes = tuple((label + 1) % 10 if i in wrong else label for i, label in enumerate(labels))
    return Predictions("made", classes, tuple(0.2 if i in wrong else 0.9 for i in range(len(labels))))


def _write_trials(study: Study, recipe: Recipe, table: Sensitivity) -> None:
    costs = study.costs
    chosen = Program(costs, table, AllocationSpec()).solve(Budgets(mean_bits=2.5))
    _write_trial(study, recipe, "mixed-2-5", "LampQ at 2.5 bits", chosen, top1=93.6, created=5.0)
    for width, top1 in ((2, 82.4), (4, 96.1), (8, 97.5)):
        spec = AllocationSpec(solver="uniform", uniform=Bits(width, width))
        even = _uniform(costs, spec, table)
        _write_trial(study, recipe, f"uniform-{width}", f"Uniform {width}", even, top1=top1, control="uniform")
    _write_trial(study, recipe, "random-2-5", "Random scores", chosen, top1=87.1, created=3.0, control="random")
    record = {"title": "LampQ at 2.5 bits, QAT", "top1": 96.9, "created": 6.0, "stage": "qat", "parent": "mixed-2-5"}
    _write_trial(study, recipe, "mixed-2-5-qat", allocation=chosen, **record)


def add_trial(study: Study, name: str, title: str, *, top1: float, width: int = 3, created: float = 9.0) -> None:
    """One more trial, uniform widths that a session chose by itself."""
    table, spec = study.sensitivity("lampq"), AllocationSpec(solver="uniform", uniform=Bits(width, width))
    _write_trial(study, Recipe(), name, title, _uniform(study.costs, spec, table), top1=top1, created=created)


def _uniform(costs: CostModel, spec: AllocationSpec, table: Sensitivity) -> Allocation:
    return given(costs, uniform(costs.layers, spec), table)


def _write_trial(
    study: Study, recipe: Recipe, name: str, title: str = "", allocation: Allocation | None = None, **rest: object
) -> None:
    assert allocation is not None
    evaluation = Evaluation(359, float(rest.pop("top1")), 99.0, 0.2, agreement=95.0, kl=0.05)  # type: ignore[arg-type]
    history = tuple(
        {"epoch": float(n), "loss": 1 / n, "top1": 90.0 + n, "low": 88.0 + n, "high": 91.5 + n} for n in range(1, 6)
    )
    record = {"stage": "ptq", "created": 1.0, "history": history if rest.get("stage") == "qat" else ()} | rest
    recipe = replace(recipe, title=title)
    trial = Trial(name, title, recipe=recipe, allocation=allocation, evaluation=evaluation, **record)  # type: ignore[arg-type]
    write_trial(study, trial)
    write_bytes(study.path / "trials" / name / "packed.safetensors", bytes(int(1e6 * allocation.cost.megabytes)))
