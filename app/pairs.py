"""Two trials face to face: how surely accuracy changed, by class and by image, and what was asked otherwise."""

from __future__ import annotations

import pandas as pd
import streamlit as st
from comparing import Entry
from facts import fact
from reading import costs, predictions, truth
from sharing import saved_as

from lampq_engine import figures
from lampq_engine.compare import (
    Flip,
    Paired,
    as_csv,
    change,
    class_changes,
    flips,
    recipe_difference,
)
from lampq_engine.errors import InputError
from lampq_engine.predictions import Predictions, Truth, thumbnail
from lampq_engine.remove import delete_trial
from lampq_engine.store import Trial

TABS = ["By class", "Images that flip", "Recipes"]
KINDS = {"lost": "Lost", "gained": "Gained", "other": "Wrong both times"}
KIND_HELP = "Lost: right before, wrong after. Gained: wrong before, right after. The others are wrong both times."
PICTURES = 24


def pair_panels(entry: Entry, against: Entry | None, home: str) -> None:
    """Numbers of the pair, then its panels; only the open one is made."""
    compared, reason = _predictions(entry, against)
    numbers(entry, against, compared)
    st.fragment(_panels)(entry, against, compared, reason, home)


Compared = tuple[Truth, Predictions, Predictions]


def _predictions(entry: Entry, against: Entry | None) -> tuple[Compared | None, str]:
    """Truth, predictions before and after; or the sentence that says why they cannot be set side by side."""
    if against is not None and against.study != entry.study:
        return None, "The two are of different studies: they were not measured on the same images."
    whole = truth(entry.study)
    after = predictions(entry.study, entry.trial, whole) if whole else None
    before = whole.whole if whole and against is None else None
    if whole and against is not None:
        before = predictions(entry.study, against.trial, whole)
    if whole is None or after is None or before is None:
        missing = entry if whole is None or after is None or against is None else against
        return None, (
            f"What “{missing.title}” predicted on each image was not kept when it was measured. "
            "Delete it and run its recipe again to see this."
        )
    return (whole, before, after), ""


def numbers(entry: Entry, against: Entry | None, compared: Compared | None) -> None:
    """The pair in five cards and a sentence: accuracy with its paired interval, flips, size and compute."""
    trial, model = entry.trial, costs(entry.study)
    cost = trial.allocation.cost
    before = against.trial.allocation.cost if against else model.cost({}) if model else cost
    low, high = trial.evaluation.interval
    found = change(*compared) if compared else None
    with st.grid(5, min_column_width=150):
        fact(
            "Top-1 accuracy",
            f"{trial.evaluation.top1:.1f} %",
            f"{low:.1f} to {high:.1f} %",
            help=f"Share of {trial.evaluation.images} validation images classified rightly, with its 95 % interval.",
        )
        fact(
            "Change",
            f"{found.change:+.1f} points" if found else "–",
            f"{found.low:+.1f} to {found.high:+.1f}" if found else "not kept",
            help="Accuracy on the same images, after minus before, with the 95 % interval of a paired difference "
            "(Agresti and Min). p is McNemar's exact test: how often so uneven a split of the flips comes by chance.",
        )
        fact(
            "Images that flip",
            f"{found.lost + found.gained} of {found.images}" if found else "–",
            f"{found.lost} lost, {found.gained} gained" if found else "not kept",
            help="Images classified rightly by one of the two only.",
        )
        fact(
            "Packed file",
            f"{cost.megabytes:.3f} MB",
            _times(before.megabytes, cost.megabytes, "smaller", "larger"),
            help="Size of the written file against that of the other.",
        )
        fact(
            "Compute",
            f"{cost.gbops:.3g} GBOPs",
            _times(before.gbops, cost.gbops, "fewer", "more"),
            help="Bit operations for one image: MACs x weight bits x activation bits.",
        )
    st.caption(_sentence(trial, found, against.title if against else "float"))


def _times(before: float, after: float, less: str, more: str) -> str:
    if before == after:
        return "the same"
    return f"{before / after:.3g}x {less}" if after < before else f"{after / before:.3g}x {more}"


def _sentence(trial: Trial, found: Paired | None, other: str) -> str:
    """The pair in one sentence, with its images, its interval and its test."""
    low, high = trial.evaluation.interval
    own = f"{trial.evaluation.top1:.1f} % of {trial.evaluation.images} images (95 % interval {low:.1f} to {high:.1f})"
    if found is None:
        return f"{own}. What changed against {other} image by image is not known."
    verdict = "more than chance" if found.low > 0 or found.high < 0 else "no more than chance may do"
    return (
        f"{own}; against {other} on the same images {found.change:+.1f} points (95 % interval {found.low:+.1f} to "
        f"{found.high:+.1f}): {found.lost} lost, {found.gained} gained, p = {found.p:.2g}, {verdict}."
    )


def _panels(entry: Entry, against: Entry | None, compared: Compared | None, reason: str, home: str) -> None:
    with st.container(height="content", key="pair"):
        tabs = st.tabs(TABS, key="pair-tabs", on_change="rerun")
        for tab, name in zip(tabs, TABS, strict=True):
            with tab:
                if not tab.open:
                    continue
                if name == "Recipes":
                    recipes(entry, against, home)
                elif compared is None:
                    st.info(reason, icon=":material/info:")
                elif name == "By class":
                    by_class(entry, compared)
                else:
                    gallery(entry, compared)


def by_class(entry: Entry, compared: Compared) -> None:
    found = class_changes(*compared)
    worst, shown = found[0], figures.class_change_bars(found)
    st.plotly_chart(
        shown,
        key="by-class",
        config=saved_as(f"{entry.study.name}-classes"),
        alt=f"Change of accuracy of {len(found)} classes; {worst.name} lost most, {worst.paired.change:+.1f} points",
    )
    rows = [
        {
            "class": one.name,
            "images": one.paired.images,
            "before": one.before,
            "after": one.after,
            "change": one.paired.change,
            "low": one.paired.low,
            "high": one.paired.high,
        }
        for one in found
    ]
    st.caption(
        f"{len(found)} classes; bars are points on the same images, whiskers the paired 95 % interval. "
        "Where a whisker crosses zero, the class may not have changed at all."
    )
    st.download_button(
        "Classes as CSV", lambda: as_csv(rows), "classes.csv", "text/csv", icon=":material/table:", on_click="ignore"
    )


def gallery(entry: Entry, compared: Compared) -> None:
    """Pictures of the images on which the two differ, the surest flips first."""
    whole, found = compared[0], flips(*compared)
    counts = {kind: sum(flip.kind == kind for flip in found) for kind in KINDS}
    kind = st.segmented_control(
        "Which flips",
        list(KINDS),
        default="lost",
        required=True,
        key="flip-kind",
        persist_state="session",
        format_func=lambda one: f"{KINDS[one]} ({counts[one]})",
        help=KIND_HELP,
    )
    some = [flip for flip in found if flip.kind == kind]
    if not some:
        st.caption("No image flipped this way.")
    with st.grid(8, min_column_width=120):
        for flip in some[:PICTURES]:
            _picture(entry, whole, flip)
    if len(some) > PICTURES:
        st.caption(f"The {PICTURES} surest of {len(some)} are shown; the CSV has them all.")
    rows = [{**vars(flip), "kind": flip.kind, "class": whole.name(flip.label)} for flip in found]
    st.download_button(
        "Flips as CSV", lambda: as_csv(rows), "flips.csv", "text/csv", icon=":material/table:", on_click="ignore"
    )


def _picture(entry: Entry, whole: Truth, flip: Flip) -> None:
    path, names = thumbnail(entry.study, flip.position), [whole.name(n) for n in (flip.label, flip.before, flip.after)]
    with st.container(gap="xsmall"):
        if path.is_file():
            st.image(str(path), width=96, alt=f"{flip.image}: a {names[0]}, taken for {names[1]}, then for {names[2]}")
        else:
            st.caption(flip.image)
        st.caption(
            f"**{names[0]}**: {names[1]} → {names[2]}  \n{flip.probability_before:.0%} → {flip.probability_after:.0%}",
            help=f"{flip.image}. True class: prediction before → after; below, the probability of the true class.",
        )


def recipes(entry: Entry, against: Entry | None, home: str) -> None:
    """Every setting in which the two were asked differently; against float, the whole recipe."""
    if against is None:
        st.caption("The float model has no recipe; this is the whole one of the trial.")
        st.code((entry.trial.path / "recipe.toml").read_text(), language="toml", height=320)
        return
    found = recipe_difference(against.trial.recipe, entry.trial.recipe)
    if not found:
        st.caption("The two recipes are equal.")
        return
    names = [f"{against.name(home)} (before)", f"{entry.name(home)} (after)"]
    rows = [{"setting": f"`{d.setting}`", names[0]: d.first or "–", names[1]: d.second or "–"} for d in found]
    st.table(pd.DataFrame(rows).set_index("setting"), border="horizontal")


def downloads(entry: Entry) -> None:
    """The packed model and the recipe of one trial, read from disk when they are asked for; and its end."""
    trial, name = entry.trial, entry.study.name
    packed, recipe = trial.packed, trial.path / "recipe.toml"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            f"Packed model ({packed.stat().st_size / 1e6:.2f} MB)" if packed.is_file() else "No packed model",
            packed.read_bytes,
            file_name=f"{name}-{trial.id}.safetensors",
            mime="application/octet-stream",
            icon=":material/download:",
            type="primary",
            disabled=not packed.is_file(),
            on_click="ignore",
            key="download-packed",
            help="A safetensors file whose weights take their bits and nothing more; it carries its recipe.",
        )
        st.download_button(
            "Recipe",
            recipe.read_bytes,
            file_name=f"{name}-{trial.id}.toml",
            mime="application/toml",
            icon=":material/receipt_long:",
            on_click="ignore",
            key="download-recipe",
            help="Everything that was asked for, as a text file; it makes the same trial again.",
        )
        with st.popover("Delete", icon=":material/delete:", help="Take this trial away for good."):
            st.markdown(f"Delete **{entry.title}** and its packed file? This cannot be undone.")
            st.button("Delete this trial", icon=":material/delete:", on_click=_delete, args=(entry,))


def _delete(entry: Entry) -> None:
    try:
        delete_trial(entry.study, entry.trial.id)
    except (InputError, OSError) as error:
        st.toast(str(error), icon=":material/error:")
    else:
        st.toast(f"“{entry.title}” is deleted.", icon=":material/delete:")
