"""Studies and trials as rows, for tables and for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lampq_engine.commands.text import evaluation_text
from lampq_engine.errors import InputError
from lampq_engine.plain import to_plain
from lampq_engine.store import Study, Trial


@dataclass(frozen=True)
class Result:
    """What a command has to say: text for people, plain data for programs, the trial it made."""

    text: str
    plain: Any
    trial: str = ""


def study_row(study: Study) -> dict[str, Any]:
    """One line of the list of studies; a study with a damaged file says so and hides no other."""
    row: dict[str, Any] = {"study": study.name}
    try:
        row |= {"model": study.model.name, "data": study.data.source, "trials": len(study.trials())}
        row["state"] = "analysed" if study.has("float.json") and "lampq" in study.metrics else "not analysed to the end"
        if study.has("float.json"):
            found = study.float_evaluation
            row |= {"top1": found.top1, "low": found.interval[0], "high": found.interval[1], "images": found.images}
    except InputError as error:
        row |= {"state": "damaged", "problem": str(error)}
    return row


def trial_row(trial: Trial, study: Study) -> dict[str, Any]:
    """One line of a comparison: what was measured, how far from float, at what cost."""
    found, cost = trial.evaluation, trial.allocation.cost
    low, high = found.interval
    return {
        "trial": trial.id,
        "title": trial.title,
        "stage": trial.stage,
        "top1": found.top1,
        "low": low,
        "high": high,
        "drop": study.float_evaluation.top1 - found.top1,
        "images": found.images,
        "kl": found.kl,
        "mean_bits": cost.mean_bits,
        "megabytes": cost.megabytes,
        "gbops": cost.gbops,
        "control": trial.control,
    }


def trial_result(trial: Trial, study: Study) -> Result:
    row = trial_row(trial, study)
    text = (
        f"trial {trial.id} ({trial.title}): {evaluation_text(trial.evaluation)}, {row['drop']:.2f} points below "
        f"float, {row['mean_bits']:.3f} mean bits, {row['megabytes']:.4f} MB, {row['gbops']:.4f} GBOPs"
    )
    return Result(
        text,
        {
            **row,
            "predicted_megabytes": trial.predicted_megabytes,
            "bits": to_plain(dict(trial.allocation.bits)),
            "solution": to_plain(trial.allocation.solution),
            "seconds": trial.seconds,
            "device": trial.device,
            "versions": dict(trial.versions),
            "history": list(trial.history),
        },
        trial.id,
    )
