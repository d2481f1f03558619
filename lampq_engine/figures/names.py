"""What things are called for people, in one place: kinds, metrics, budgets, stages, with a sentence on each."""

from __future__ import annotations

from lampq_engine.types import Kind

KIND_NAMES: dict[Kind, str] = {
    "patch": "patch",
    "qkv": "qkv",
    "scores": "QKᵀ",
    "context": "AV",
    "proj": "proj",
    "fc1": "fc1",
    "fc2": "fc2",
    "merge": "merge",
    "head": "head",
    "other": "other",
}

KIND_HELP: dict[Kind, str] = {
    "patch": "cuts the image into patches and embeds them",
    "qkv": "makes queries, keys and values of attention",
    "scores": "attention scores, queries times keys; it has no weights, both operands are rounded",
    "context": "attention-weighted sum of values; it has no weights, both operands are rounded",
    "proj": "projection after attention",
    "fc1": "first linear layer of the MLP",
    "fc2": "second linear layer of the MLP",
    "merge": "merges neighbouring patches between stages",
    "head": "classifier",
    "other": "any other linear layer",
}

METRIC_NAMES = {
    "fisher": "Raw Fisher",
    "lampq": "Type-aware (LampQ)",
    "output": "Output Fisher",
    "harm": "Measured harm",
    "lrp": "Relevance (LRP-QViT)",
    "mixqvit": "Relevance x change (Mix-QViT)",
    "nuclear": "Nuclear norm (VT-PTQ)",
    "hessian": "Hessian (HAWQ-V3)",
    "random": "Random",
    "inverted": "Inverted",
}

METRIC_SHORT = {
    "fisher": "Fisher",
    "lampq": "LampQ",
    "output": "Output",
    "harm": "Harm",
    "lrp": "LRP",
    "mixqvit": "Mix-QViT",
    "nuclear": "VT-PTQ",
    "hessian": "HAWQ-V3",
    "random": "Random",
    "inverted": "Inverted",
}

METRIC_HELP = {
    "fisher": "Fisher trace of a layer's weights: how sharply the loss bends when they are disturbed.",
    "lampq": "The Fisher trace times a factor for each kind of layer, so that kinds compare: accuracy points lost.",
    "output": "The real error of each layer's output at each width, weighed by how sharply the prediction bends there "
    "(second order).",
    "harm": "Each layer is quantized alone and the change of the model's prediction is measured (KL divergence).",
    "lrp": "How much of a prediction passes through each layer: the share of relevance at its input.",
    "mixqvit": "The share of relevance times how the prediction changes when one side of one layer changes width while "
    "all others stay at a baseline width.",
    "nuclear": "Nuclear norm of the layer's features times the squared error that quantization makes in its output.",
    "hessian": "Mean curvature of the loss in a layer's weights (Hutchinson) times their squared quantization error.",
    "random": "Scores that know nothing of the model: a control that every metric must beat.",
    "inverted": "The ranking turned upside down: a control that should do worst.",
}

BUDGET_NAMES = {
    "mean_bits": "Mean bits",
    "mean_activation_bits": "Mean activation bits",
    "megabytes": "Megabytes",
    "gbops": "GBOPs",
}

COST_AXES = {
    "mean_bits": "mean weight bits",
    "mean_activation_bits": "mean activation bits",
    "megabytes": "packed file (MB)",
    "gbops": "bit operations an image (GBOPs)",
}

STAGE_NAMES = {"ptq": "Quantized", "updated": "Bits refined", "qat": "QAT"}

STAGE_HELP = {
    "ptq": "quantized after training, no weight was trained",
    "updated": "after LampQ's iterative bit update",
    "qat": "after quantization-aware training",
}


def width(bits: int) -> str:
    """A width for people: `4`, or `float` where nothing is rounded."""
    return "float" if bits >= 32 else str(bits)


def number(value: float) -> str:
    """Three significant digits, without an exponent where it reads well."""
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.2e}"
