"""A recipe: everything that was asked for, as frozen dataclasses that a person, a form or a TOML file can make.

Each field carries its help text; the command line, the tooltips of the pages and the documentation read it from here.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from dataclasses import dataclass, field, fields, replace

import tomli_w

from lampq_engine.errors import InputError
from lampq_engine.plain import check, check_choices, from_plain, setting, to_plain
from lampq_engine.types import FLOAT_BITS, KINDS, Bits, Kind


@dataclass(frozen=True)
class ModelSpec:
    name: str = setting("builtin", "`builtin`, a timm model name, `hf-hub:org/model` or `local-dir:folder`")
    checkpoint: str = setting("", "safetensors file with the weights to use in place of the pretrained ones")
    hash: str = setting("", "hash of the weights this recipe was made for; empty: any")


@dataclass(frozen=True)
class DataSpec:
    source: str = setting("builtin", "`builtin`, an image folder, or `timm:` and a data set name timm can read")
    calibration_source: str = setting("", "second folder for calibration images; empty: drawn from `source`")
    calibration_images: int = setting(256, "images for Fisher traces, type factors and the stop test; 0: all")
    validation_images: int = setting(0, "images every accuracy is measured on, never calibrated on; 0: all")
    seed: int = setting(0, "seed of the draw of calibration images")

    def __post_init__(self) -> None:
        for name in ("calibration_images", "validation_images"):
            check(getattr(self, name) >= 0, f"data.{name}", getattr(self, name), "0 (all of them) or a positive number")


METRICS = ("lampq", "fisher", "output", "harm", "lrp", "mixqvit", "nuclear", "hessian", "random", "inverted")


@dataclass(frozen=True)
class SensitivitySpec:
    """How layers are scored. `probe_bits`, `probes` and `base` are LampQ's beta, mu and gamma, left open there."""

    metric: str = setting("lampq", "which metric the allocation minimises", METRICS)
    fisher: str = setting(
        "empirical", "labels of the Fisher gradients: the data's, or sampled from the model", ("empirical", "sampled")
    )
    probe_bits: int = setting(1, "beta: width at which sampled layers are quantized alone to measure type factors")
    probes: int = setting(3, "mu: layers sampled per type, spread over depth; 0: all of them")
    base: float = setting(4.0, "gamma: factor by which harm falls with one more bit")
    per_parameter: bool = setting(False, "divide the Fisher trace by the number of weights (matters for Swin)")
    harm_images: int = setting(32, "calibration images on which the harm of each layer alone is measured")
    baseline_bits: int = setting(4, "width of all other layers while Mix-QViT's sensitivity varies one")
    varied_images: int = setting(16, "calibration images on which Mix-QViT's sensitivity is measured")
    relevance_images: int = setting(32, "calibration images that relevance is propagated through, for lrp and mixqvit")
    hessian_samples: int = setting(4, "random sign vectors for each Hessian trace")
    seed: int = setting(0, "seed of sampled labels and of the random control")

    def __post_init__(self) -> None:
        check_choices(self)
        check(1 <= self.probe_bits < FLOAT_BITS, "sensitivity.probe_bits", self.probe_bits, "a width from 1 to 31")
        check(self.base > 1, "sensitivity.base", self.base, "a number above 1")
        check(self.harm_images > 0, "sensitivity.harm_images", self.harm_images, "a positive number")
        check(2 <= self.baseline_bits <= 8, "sensitivity.baseline_bits", self.baseline_bits, "a width from 2 to 8")
        for name in ("varied_images", "relevance_images", "hessian_samples"):
            check(getattr(self, name) > 0, f"sensitivity.{name}", getattr(self, name), "a positive number")
        check(self.probes >= 0, "sensitivity.probes", self.probes, "0 (all layers) or a positive number")


@dataclass(frozen=True)
class Menu:
    """The widths a layer may take. One width alone means: fixed. 32 means: may stay in float."""

    weights: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    activations: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    tied: bool = True  # weights and activations take the same width where both may (LampQ)

    def __post_init__(self) -> None:
        for name, widths in (("weights", self.weights), ("activations", self.activations)):
            good = widths and all(isinstance(b, int) and (1 <= b <= 8 or b == FLOAT_BITS) for b in widths)
            check(bool(good), f"menu.{name}", list(widths), "one or more widths from 1 to 8, or 32 for float")

    def options(self) -> tuple[Bits, ...]:
        """Every pair of widths that may be chosen, narrowest first."""
        if self.tied and set(self.weights) & set(self.activations) and self.weights == self.activations:
            return tuple(Bits(b, b) for b in sorted(set(self.weights)))
        return tuple(Bits(w, a) for w in sorted(set(self.weights)) for a in sorted(set(self.activations)))


def default_menus() -> dict[Kind, Menu]:
    """LampQ's search space: the four types from 2 to 8 bits; everything else fixed at 8 bits."""
    searched = {"qkv", "proj", "fc1", "fc2", "merge"}
    return {kind: Menu() if kind in searched else Menu((8,), (8,)) for kind in KINDS}


@dataclass(frozen=True)
class Budgets:
    """Upper limits on cost, any combination at once; an absent one does not bind."""

    mean_bits: float | None = setting(None, "mean weight bits over the blocks' linear layers, weighted by parameters")
    mean_activation_bits: float | None = setting(None, "the same mean of the activation bits")
    megabytes: float | None = setting(None, "size of the packed file in 10^6 bytes")
    gbops: float | None = setting(None, "10^9 bit operations an image: MACs x weight bits x activation bits")

    def __post_init__(self) -> None:
        for name, value in self.given().items():
            good = isinstance(value, int | float) and math.isfinite(value) and value > 0
            check(good, f"budgets.{name}", value, "a positive number")

    def given(self) -> dict[str, float]:
        """The budgets that are set, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}


SOLVERS = ("ilp", "greedy", "uniform", "given")

# Named ties: layers of these kinds in one block take the same widths.
TIES: dict[str, tuple[Kind, ...]] = {
    "qkv": ("qkv",),  # where query, key and value are layers of their own: runtimes fuse them
    "attention": ("qkv", "proj"),
    "mlp": ("fc1", "fc2"),
    "residual": ("proj", "fc2"),  # both add to the residual stream
    "block": ("qkv", "proj", "fc1", "fc2"),
}
Tie = str | tuple[str, ...]


@dataclass(frozen=True)
class AllocationSpec:
    solver: str = setting(
        "ilp",
        "exact integer program, MPTQ-ViT's greedy descent, one width for every layer, or the widths given below",
        SOLVERS,
    )
    greedy: str = setting(
        "measured",
        "what the greedy solver calls performance: the quantized model's KL to float, or the metric's table",
        ("measured", "metric"),
    )
    greedy_images: int = setting(16, "calibration images the greedy solver measures on")
    uniform: Bits = setting(Bits(8, 8), "weight and activation width of the uniform allocation")
    budgets: Budgets = Budgets()
    menus: dict[Kind, Menu] = field(default_factory=default_menus, metadata={"help": "allowed widths by layer kind"})
    pins: dict[str, Bits] = setting({}, "widths of single layers that the solver must keep")
    bits: dict[str, Bits] = setting({}, "the whole allocation, where the solver is `given`")
    ties: tuple[Tie, ...] = setting(
        (),
        "layers that take the same widths: a rule for every block (" + ", ".join(TIES) + ") or a list of layer names",
    )

    def __post_init__(self) -> None:
        check_choices(self)
        for tie in self.ties:
            named = tie in TIES if isinstance(tie, str) else len(tie) > 1 and all(isinstance(n, str) for n in tie)
            check(named, "allocation.ties", tie, f"one of {', '.join(TIES)}, or two or more layer names")
        check(self.greedy_images > 0, "allocation.greedy_images", self.greedy_images, "a positive number")
        unknown = sorted(set(self.menus) - set(KINDS))
        check(not unknown, "allocation.menus", unknown, "only the kinds of layers " + ", ".join(KINDS))

    def menu(self, kind: Kind) -> Menu:
        return self.menus.get(kind) or default_menus()[kind]


@dataclass(frozen=True)
class QuantizationSpec:
    range: str = setting(
        "output",
        "clipping ranges by least error: of the layer's output (inputs of linear layers) and else of the tensor "
        "itself; of the tensor alone; or no clipping",
        ("output", "mse", "minmax"),
    )
    bias: str = setting(
        "correct",
        "add each layer's mean output error on the calibration images to its bias, or keep the bias",
        ("correct", "keep"),
    )
    grid: str = setting(
        "asymmetric",
        "levels from least to greatest value; around zero (symmetric); or symmetric for weights only (PSAQ-ViT)",
        ("asymmetric", "symmetric", "symmetric_weights"),
    )
    fold: str = setting(
        "repq",
        "rewrite after LayerNorm: RepQ-ViT's per-channel scales, the same with extreme channels clipped (Mix-QViT), "
        "SmoothQuant with bias (MPTQ-ViT), or none",
        ("repq", "clipped", "sq_b", "none"),
    )
    fold_strength: float = setting(0.5, "SQ-b's exponent: how much of a channel's spread the weights take over")
    fold_clip: float = setting(2.0, "standard deviations around the mean scale at which the clipped fold clips")
    softmax: str = setting(
        "adalog",
        "quantizer after softmax: AdaLog's rational base, log-sqrt(2), uniform, or auto: AdaLog's or uniform, "
        "whichever has the least squared error",
        ("adalog", "log_sqrt2", "uniform", "auto"),
    )
    gelu: str = setting(
        "auto",
        "quantizer after GELU: AdaLog's shifted logarithm, uniform, auto: whichever of the two has the least error in "
        "the output, or two regions whose steps differ by a power of two (MPTQ-ViT's OPT-m)",
        ("auto", "adalog", "uniform", "opt_m"),
    )
    operands: str = setting(
        "head", "ranges of the attention matmuls' operands: one a head, or one for the tensor", ("head", "tensor")
    )
    importance: str = setting(
        "even",
        "weight the errors of every search by what each token and channel means to the prediction, or all alike",
        ("even", "fisher"),
    )
    values: str = setting(
        "fold",
        "rewrite of attention's values: scale and shift each channel so that one range fits all, or none",
        ("fold", "none"),
    )
    compensate: str = setting(
        "none",
        "round weights against the rounded inputs, layer after layer: by ridge regression, by feedback from column to "
        "column (GPTQ), by both, or round each weight alone",
        ("none", "ridge", "feedback", "both"),
    )
    reconstruct: int = setting(
        0, "passes over the calibration images in which each block learns to put out what the float block does"
    )
    reconstruct_rate: float = setting(1e-4, "learning rate of the weights in block reconstruction")
    images: int = setting(32, "calibration images the quantizers are fitted on")
    calibration: str = setting(
        "real",
        "everything is calibrated on the calibration images, or on images generated from the model alone (zero-shot)",
        ("real", "generated"),
    )

    def __post_init__(self) -> None:
        check_choices(self)
        check(self.reconstruct >= 0, "quantization.reconstruct", self.reconstruct, "0 (none) or a positive number")
        check(self.reconstruct_rate > 0, "quantization.reconstruct_rate", self.reconstruct_rate, "a positive number")
        check(0 <= self.fold_strength <= 1, "quantization.fold_strength", self.fold_strength, "a number from 0 to 1")
        check(self.fold_clip > 0, "quantization.fold_clip", self.fold_clip, "a positive number")
        check(self.images > 0, "quantization.images", self.images, "a positive number")


@dataclass(frozen=True)
class GenerationSpec:
    """Calibration images made from the model alone (PSAQ-ViT), where the recipe calibrates on generated images."""

    images: int = setting(32, "images to generate")
    iterations: int = setting(500, "optimisation steps of each round")
    rounds: int = setting(2, "rounds of the schedule; the second shifts images twice as far")
    batch: int = setting(8, "images optimised together; each finished batch is kept and not made again")
    learning_rate: float = setting(0.2, "peak learning rate of Adam (PSAQ-ViT: 0.2, Swin 0.25; less for digits)")
    prior: float = setting(1.0, "weight of the class prior: cross-entropy to random labels")
    variation: float = setting(0.05, "weight of the total variation's distance from natural images'")
    flip: bool = setting(True, "random mirror images while optimising; not for digits")
    seed: int = setting(0, "seed of starting noise and labels")

    def __post_init__(self) -> None:
        for name in ("images", "iterations", "rounds", "batch", "learning_rate"):
            check(getattr(self, name) > 0, f"generation.{name}", getattr(self, name), "a positive number")
        for name in ("prior", "variation"):
            check(getattr(self, name) >= 0, f"generation.{name}", getattr(self, name), "0 or a positive number")


@dataclass(frozen=True)
class UpdateSpec:
    """LampQ's iterative bit update (LampQ 1.4); the pair rule and patience are our choice."""

    steps: int = setting(0, "most pairs of layers that may trade a bit; 0: no update")
    patience: int = setting(2, "next-best pairs to try after one that did not help, before stopping")
    strict_paper: bool = setting(False, "keep the plain mean of bits, as the paper's text says, not the weighted one")

    def __post_init__(self) -> None:
        check(self.steps >= 0 and self.patience >= 0, "update", (self.steps, self.patience), "numbers from 0")


@dataclass(frozen=True)
class TrainingSpec:
    """Quantization-aware training: learned step sizes, AdamW, cosine schedule, distillation from the float model."""

    epochs: int = setting(0, "passes over the training images; 0: no training")
    images: int = setting(0, "training images; 0: all that are not validation images")
    batch: int = setting(64, "images in a step")
    learning_rate: float = setting(5e-4, "peak learning rate of the weights")
    scale_learning_rate: float = setting(1e-3, "peak learning rate of the logarithms of the step sizes")
    weight_decay: float = setting(0.0, "AdamW weight decay of the weights")
    warmup: float = setting(0.05, "share of the steps that warm up")
    distill: float = setting(0.9, "weight of the KL to the float teacher; the rest goes to the labels")
    temperature: float = setting(1.0, "temperature of the distillation")
    update_every: int = setting(0, "epochs between iterative bit updates while training; 0: bits stay")
    augment: bool = setting(True, "small random shifts of the training images")
    seed: int = setting(0, "seed of the order of images")

    def __post_init__(self) -> None:
        for name in ("epochs", "images", "weight_decay", "update_every"):
            check(getattr(self, name) >= 0, f"training.{name}", getattr(self, name), "0 or a positive number")
        for name in ("batch", "learning_rate", "scale_learning_rate", "temperature"):
            check(getattr(self, name) > 0, f"training.{name}", getattr(self, name), "a positive number")
        for name in ("warmup", "distill"):
            check(0 <= getattr(self, name) <= 1, f"training.{name}", getattr(self, name), "a share from 0 to 1")


@dataclass(frozen=True)
class Recipe:
    """What was asked, whole: it re-creates a trial to the bit on the same device and versions."""

    title: str = setting("", "a name for people")
    source: str = setting("", "the paper this recipe follows, or `our choice`")
    model: ModelSpec = ModelSpec()
    data: DataSpec = DataSpec()
    sensitivity: SensitivitySpec = SensitivitySpec()
    allocation: AllocationSpec = field(default_factory=AllocationSpec)
    quantization: QuantizationSpec = QuantizationSpec()
    generation: GenerationSpec = GenerationSpec()
    update: UpdateSpec = UpdateSpec()
    training: TrainingSpec = TrainingSpec()

    @property
    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of everything but title and source."""
        plain = to_plain(from_plain(Recipe, to_plain(replace(self, title="", source=""))))
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


def to_toml(recipe: Recipe) -> str:
    """A recipe as TOML text, which `from_toml` reads back to an equal recipe."""
    return tomli_w.dumps(to_plain(recipe))


def from_toml(text: str, *, where: str = "recipe") -> Recipe:
    """Read a recipe; what is left out takes its default. `InputError` names an unknown or ill-typed setting."""
    try:
        plain = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(
            f"{where} is not valid TOML: {error}", todo="Correct that line, or export the recipe again"
        ) from error
    return from_plain(Recipe, plain, where)
