"""The options of every command; their help texts come from the recipe's settings."""

from __future__ import annotations

import argparse
from typing import Any

from lampq_engine.commands import run
from lampq_engine.plain import field_of, help_of
from lampq_engine.recipe import (
    METRICS,
    AllocationSpec,
    Budgets,
    DataSpec,
    GenerationSpec,
    ModelSpec,
    SensitivitySpec,
    TrainingSpec,
    UpdateSpec,
)

EXTRA_METRICS = ("lrp", "mixqvit", "nuclear", "hessian")
EPILOG = "Give --json for a machine-readable result. Studies live in $LAMPQ_STUDIES, else in ./studies."


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="python -m lampq_engine", description="Mixed-precision quantization of Vision Transformers.", epilog=EPILOG
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, help: str, *, device: bool = False) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=help, description=help, epilog=EPILOG)
        one.set_defaults(run=getattr(run, name.replace("-", "_")), device=device)
        one.add_argument("--json", action="store_true", help="print the result as JSON")
        one.add_argument("--quiet", action="store_true", help="no progress on stderr")
        one.add_argument("--studies", metavar="FOLDER", default="", help="folder of the studies")
        one.add_argument("--events", default="", help=argparse.SUPPRESS)
        return one

    command("studies", "list the studies")
    one = command("analyse", "make a study: layers, float accuracy, sensitivities", device=True)
    _model_and_data(one)
    _study(one, required=False)
    _settings(one, SensitivitySpec, skip=("metric", "seed"))
    one.add_argument(
        "--also", action="append", default=[], choices=EXTRA_METRICS, help="a further metric to measure (repeatable)"
    )
    one.add_argument("--quick", action="store_true", help="leave out the metrics that take longest: output, harm")
    one = command("sensitivity", "print a study's sensitivities, most sensitive layer first")
    _study(one)
    one.add_argument("--metric", default="lampq", choices=METRICS, help=help_of(SensitivitySpec, "metric"))
    one = command("allocate", "solve the integer program for a budget and print the widths")
    _study(one)
    _recipe(one)
    one = command("explain", "say why a layer has its widths: one bit more or less against the solver's price")
    _study(one)
    _recipe(one)
    one.add_argument("--layer", required=True, help="name of the layer")
    one = command("inspect", "look closely at a layer, or at an image and its attention", device=True)
    _study(one)
    one.add_argument("--layer", default="", help="name of a layer: its weights, inputs and errors")
    one.add_argument("--bits", default="4/4", metavar="W/A", help="widths to look at it with (default 4/4)")
    one.add_argument("--image", type=int, default=None, help="number of a calibration image: attention on it")
    one.add_argument("--trial", default="", help="id of the trial to compare the image with, in place of --bits")
    one = command("frontier", "solve along the whole range of one budget")
    _study(one)
    _recipe(one)
    one.add_argument(
        "--along", default="megabytes", choices=list(Budgets.__dataclass_fields__), help="the budget to vary"
    )
    one.add_argument("--points", type=int, default=100, help="number of exact solutions")
    one = command("quantize", "quantize and measure an allocation: a new trial", device=True)
    _study(one)
    _recipe(one)
    one.add_argument("--title", default="", help="name of the trial for people")
    one = command("controls", "uniform, random and inverted trials at a recipe's budget", device=True)
    _study(one)
    _recipe(one)
    one = command("generate", "make calibration images from a study's model alone (zero-shot)", device=True)
    _study(one)
    _settings(one, GenerationSpec)
    one = command("methods", "every published system at the same budgets, with one engine and its own", device=True)
    _study(one)
    _recipe(one)
    one.add_argument("--at", type=float, action="append", metavar="BITS", help="mean bits to compare at (repeatable)")
    one.add_argument(
        "--greedy", action=argparse.BooleanOptionalAction, default=True, help="with MPTQ-ViT's greedy descent (minutes)"
    )
    one = command("refine", "trade bits between layers while accuracy on the calibration images rises", device=True)
    _study(one)
    _trial(one)
    _settings(one, UpdateSpec, defaults={"steps": 10})
    one = command("finetune", "quantization-aware training of a trial: a new trial", device=True)
    _study(one)
    _trial(one)
    _settings(one, TrainingSpec, defaults={"epochs": 6})
    one = command("run", "carry out a whole recipe: analyse, quantize, refine, finetune", device=True)
    one.add_argument("file", help="recipe file (TOML)")
    _study(one, required=False)
    one = command("compare", "list a study's trials, most accurate first")
    _study(one)
    one = command("report", "write a study as one HTML file that opens anywhere, without a network")
    _study(one)
    one.add_argument(
        "--trial", default="", help="id of the trial to show in detail; the newest one where it is left out"
    )
    one.add_argument("--to", required=True, metavar="FILE", help="where to, a name that ends in .html")
    one = command("delete", "take a trial away, or a whole study; it cannot be undone")
    _study(one)
    one.add_argument("--trial", default="", help="id of the trial; the whole study where it is left out")
    one.add_argument("--yes", action="store_true", help="needed, since nothing asks again")
    one = command("export", "copy a trial's packed file and recipe to a folder")
    _study(one)
    _trial(one)
    one.add_argument("--to", required=True, metavar="FOLDER", help="where to")
    one = command("verify", "load a packed file and measure it on a study's validation images", device=True)
    _study(one)
    one.add_argument("file", help="packed file (safetensors)")
    one = command("jobs", "list a study's jobs")
    _study(one)
    for name, help in (("cancel", "stop a job; what it finished stays"), ("resume", "start a job's command again")):
        one = command(name, help)
        _study(one)
        one.add_argument("job", help="id of the job")
    return top


def _study(one: argparse.ArgumentParser, *, required: bool = True) -> None:
    one.add_argument("--study", required=required, default="", help="name of the study")


def _trial(one: argparse.ArgumentParser) -> None:
    one.add_argument("--trial", required=True, help="id of the trial")


def _model_and_data(one: argparse.ArgumentParser) -> None:
    one.add_argument("--model", default="builtin", help=help_of(ModelSpec, "name"))
    one.add_argument("--checkpoint", default="", help=help_of(ModelSpec, "checkpoint"))
    one.add_argument("--data", default="builtin", help=help_of(DataSpec, "source"))
    _settings(one, DataSpec, skip=("source",))


def _recipe(one: argparse.ArgumentParser) -> None:
    one.add_argument("--recipe", default="", metavar="FILE", help="recipe file (TOML) or the name of a shipped one")
    one.add_argument("--metric", default=None, choices=METRICS, help=help_of(SensitivitySpec, "metric"))
    _settings(one, Budgets)
    one.add_argument(
        "--uniform", metavar="W/A", help="the same widths everywhere, 4/4 for instance, in place of a budget"
    )
    one.add_argument(
        "--menu",
        action="append",
        default=[],
        metavar="KIND=WIDTHS",
        help="widths of a layer kind: qkv=2,4,8 or patch=4/8 (weights/activations)",
    )
    one.add_argument("--pin", action="append", default=[], metavar="LAYER=W/A", help="widths of a single layer")
    one.add_argument("--tie", action="append", default=[], metavar="RULE", help=help_of(AllocationSpec, "ties"))
    one.add_argument("--free", action="store_true", help="choose weight and activation widths apart")


def _settings(
    one: argparse.ArgumentParser, spec: type, *, skip: tuple[str, ...] = (), defaults: dict[str, Any] | None = None
) -> None:
    """One option per setting; an option that is not given takes the recipe's value."""
    for name in spec.__dataclass_fields__:  # type: ignore[attr-defined]
        if name in skip:
            continue
        meta = field_of(spec, name)
        default = (defaults or {}).get(name, meta.default)
        flag = f"--{name.replace('_', '-')}"
        help = f"{help_of(spec, name)}" + ("" if default is None else f" (default {default})")
        if isinstance(meta.default, bool):
            one.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=help_of(spec, name))
        else:
            kind = float if meta.default is None else type(meta.default)
            choices = meta.metadata.get("choices") or None
            one.add_argument(flag, type=kind, default=None, choices=choices, help=help.replace("%", "%%"))
