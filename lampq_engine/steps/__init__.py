"""The verbs over a study: analyse it, quantize and measure, run controls, refine bits, finetune. Each resumes."""

from lampq_engine.steps.analyse import LONG_METRICS, analyse
from lampq_engine.steps.finetune import finetune
from lampq_engine.steps.generate import Generated, generate
from lampq_engine.steps.inspect import inspect_image, inspect_layer
from lampq_engine.steps.loaded import Loaded, load
from lampq_engine.steps.methods import Entry, compare_methods, entries
from lampq_engine.steps.quantize import control_recipes, quantize, run_controls
from lampq_engine.steps.refine import refine
from lampq_engine.steps.verify import Verification, verify

__all__ = [
    "LONG_METRICS",
    "Entry",
    "Generated",
    "Loaded",
    "Verification",
    "analyse",
    "compare_methods",
    "control_recipes",
    "entries",
    "finetune",
    "generate",
    "inspect_image",
    "inspect_layer",
    "load",
    "quantize",
    "refine",
    "run_controls",
    "verify",
]
