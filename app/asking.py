"""What a session asked for, as a recipe and as a job."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st
from reading import analysis

from lampq_engine import jobs
from lampq_engine.errors import InputError
from lampq_engine.files import write_bytes
from lampq_engine.plain import from_plain
from lampq_engine.recipe import AllocationSpec, Recipe, SensitivitySpec, to_toml
from lampq_engine.store import Study


def recipe_of(study: Study, metric: str, spec: AllocationSpec, title: str) -> Recipe:
    """The recipe of an allocation, tied to the very weights it was made for."""
    known = analysis(study)
    model = replace(study.model, hash=str(known.get("weights_hash", "")))
    settings = from_plain(SensitivitySpec, known.get("sensitivity", {}), "analysis.json: sensitivity")
    sensitivity = replace(settings, metric=metric)
    return Recipe(
        title=title, source="our choice", model=model, data=study.data, sensitivity=sensitivity, allocation=spec
    )


def request(study: Study, command: str, recipe: Recipe, title: str) -> None:
    """Start `quantize` or `controls` for a recipe, which is kept in the study as a file."""
    path = study.path / "requests" / f"{recipe.hash}.toml"
    try:
        write_bytes(path, to_toml(recipe).encode())
        jobs.start(study, [command, "--study", study.name, "--recipe", str(path)], title=title)
    except (InputError, OSError) as error:
        st.toast(str(error), icon=":material/error:")
