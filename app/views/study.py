"""The study in hand: its analysis as it goes, what is known of it, its jobs, and the way to another one."""

from argparse import Namespace

import streamlit as st
from choosing import start_analysis
from facts import fact
from reading import analysis, bypassed, costs, float_evaluation, models_on_offer, sensitivity
from watching import age, badge, bar, buttons, words

from lampq_engine import figures, jobs, store
from lampq_engine.commands.request import data_spec, model_spec
from lampq_engine.errors import InputError
from lampq_engine.plain import help_of
from lampq_engine.recipe import DataSpec, ModelSpec, Recipe
from lampq_engine.remove import delete_study
from lampq_engine.store import Study
from lampq_engine.types import FLOAT_BITS

PAIR = 400  # pixels: two charts stand side by side where both can be this wide
STEPS = {
    "layers.json": "Layers",
    "float.json": "Float accuracy",
    "sensitivity/fisher.json": "Fisher traces",
    "sensitivity/lampq.json": "Type factors",
    "sensitivity/output.json": "Output Fisher",
    "sensitivity/harm.json": "Measured harm",
}


def is_analysis(job: jobs.Job) -> bool:
    return job.info["arguments"][0] == "analyse"


def progress_panel(study: Study) -> None:
    """How the analysis goes, drawn every second while it lives."""
    job = next((job for job in jobs.list_jobs(study) if is_analysis(job)), None)
    complete = all(study.has(name) for name in STEPS)
    if job is None:
        if not complete:
            todo = [text for name, text in STEPS.items() if not study.has(name)]
            begun = len(todo) < len(STEPS)
            missing = f"Not measured yet: {', '.join(todo)}." if begun else "This study has not been analysed yet."
            st.info(missing, icon=":material/play_circle:")
            label = "Complete the analysis" if begun else "Start the analysis"
            if st.button(label, type="primary", icon=":material/play_arrow:"):
                start_analysis(study)
                st.rerun()
        return
    status = job.status()
    if status.state == "finished" and complete:
        return
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{job.info['title']}**", width="content")
            badge(status)
            st.space("stretch")
            buttons(study, job, status, where="panel")
        if status.state == "failed":
            st.error(status.message, icon=":material/error:")
        elif status.ended:
            st.info(status.message or "It stopped before it was complete; resume it to go on.")
        else:
            bar(status)
        done = [f":green[:material/check:] {text}" for name, text in STEPS.items() if study.has(name)]
        todo = [f":gray[:material/pending: {text}]" for name, text in STEPS.items() if not study.has(name)]
        st.caption("   ".join(done + todo))


def facts(study: Study) -> None:
    """What is known of the study, as a row of numbers; what is not yet known shows a dash."""
    model, whole, counts = costs(study), float_evaluation(study), analysis(study).get("counts", {})
    weights = sum(layer.weights for layer in model.layers) if model else 0
    macs = sum(layer.macs for layer in model.layers) / 1e9 if model else 0.0
    with st.grid(5, min_column_width=150):
        fact(
            "Float accuracy",
            f"{whole.top1:.1f} %" if whole else "–",
            "{:.1f} to {:.1f} %".format(*whole.interval) if whole else None,
            help="Top-1 accuracy of the unquantized model on the validation images, with its 95 % Wilson interval.",
        )
        fact(
            "Images",
            str(whole.images) if whole else "–",
            f"{counts['calibration']} for calibration" if "calibration" in counts else None,
            help="Validation images, on which every accuracy is measured; calibration never sees one of them.",
        )
        fact(
            "Layers",
            str(len(model.layers)) if model else "–",
            f"{weights / 1e6:.2f} M weights" if model else None,
            help="Every place that can be quantized: linear layers, the patch convolution, both attention matmuls.",
        )
        fact(
            "Size in float",
            f"{model.cost({}).megabytes:.2f} MB" if model else "–",
            "32 bits a weight" if model else None,
            help="Bytes of the whole model with every weight in 32 bits.",
        )
        fact(
            "Compute",
            (f"{macs:.3g} GMACs" if macs >= 1 else f"{1e3 * macs:.3g} MMACs") if model else "–",
            f"{macs * FLOAT_BITS**2:.4g} GBOPs in float" if model else None,
            help="Multiply-accumulates for one image. BOPs, bit operations, are MACs x weight bits x activation bits.",
        )


def heatmaps(study: Study, running: bool) -> None:
    """The sensitivities that are there, raw and type-aware side by side; a place is kept for what is coming."""
    model = costs(study)
    found = [table for table in (sensitivity(study, name) for name in ("fisher", "lampq")) if table and model]
    if not found and not running:
        st.caption("The sensitivity heatmap appears here when the study is analysed.")
        return
    with st.grid(2, min_column_width=PAIR):
        for table in found:
            assert model is not None
            figure = figures.sensitivity_map(model.layers, table)
            st.plotly_chart(figure, key=f"study-{table.metric}", alt=f"Sensitivity of each layer, {table.metric}")
        for _ in range(2 - len(found) if running else 0):
            st.skeleton(height=238)
    st.page_link("views/sensitivity.py", label="Look closer on the Sensitivity page", icon=":material/arrow_forward:")


def job_list(study: Study) -> None:
    """Every job of the study, newest first, with what can be done about it."""
    found = jobs.list_jobs(study)
    if not found:
        st.caption("No job has run yet.")
    for job in found[:20]:
        status = job.status()
        with st.container(border=True, gap="xsmall"):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"**{job.info['title']}**", width="content")
                badge(status)
                st.caption(age(job.info["created"]), width="content")
                st.space("stretch")
                with st.popover("Log", icon=":material/article:", key=f"log-{job.id}"):
                    st.code(job.log()[-6000:] or "Nothing was printed yet.", language=None)
                buttons(study, job, status, where="list")
            text = status.message if status.ended else words(status)
            if text:
                st.caption(text)


def provenance(study: Study) -> None:
    """Where every number of this study comes from."""
    found = analysis(study)
    rows = {"Model": study.model.name, "Checkpoint": study.model.checkpoint or "the pretrained weights"}
    rows |= {"Data": study.data.source, "Calibration from": study.data.calibration_source or "drawn from the data"}
    rows |= {"Seed of the draw": study.data.seed, "Folder": study.path}
    rows |= {"Weights hash": found.get("weights_hash", "–"), "Images hash": found.get("images_hash", "–")}
    rows |= {"Device": found.get("device", "–")}
    rows |= {"Versions": ", ".join(f"{k} {v}" for k, v in dict(found.get("versions", {})).items()) or "–"}
    rows |= {"Left in float": ", ".join(bypassed(study)) or "nothing"}
    st.table({name: str(value) for name, value in rows.items()}, border="horizontal")
    skipped = found.get("skipped", [])
    if skipped:
        st.warning(f"{len(skipped)} images could not be read and were skipped.", icon=":material/broken_image:")
        st.code("\n".join(map(str, skipped)), language=None, height=160)


def end_of(study: Study) -> None:
    """The way to get rid of a study, for one that failed or is done with."""
    with st.popover("Delete this study", icon=":material/delete:"):
        trials = len(list((study.path / "trials").glob("*/trial.json")))
        st.markdown(
            f"Delete **{study.name}** with its sensitivities, {trials} trials and their packed files? "
            "This cannot be undone. The model and the images stay where they are."
        )
        st.button("Delete it for good", icon=":material/delete:", on_click=_delete, args=(study,))


def _delete(study: Study) -> None:
    try:
        delete_study(study)
    except (InputError, OSError) as error:
        st.toast(str(error), icon=":material/error:")
        return
    st.session_state.pop("study", None)
    st.query_params.pop("study", None)
    st.toast(f"The study {study.name} is deleted.", icon=":material/delete:")


def offer() -> None:
    """The models on offer: a row that is chosen fills in the model of the form below."""
    asked = st.text_input(
        "Search the models on offer",
        key="offer-search",
        placeholder="deit tiny, swin 384, ViT …",
        help="words of the name or family, all of which must occur; any other timm name can be typed below",
    )
    table = models_on_offer()
    words = asked.lower().split()
    text = (table["model"] + " " + table["family"] + " " + table["input_px"].astype(str)).str.lower()
    shown = table[[all(word in line for word in words) for line in text]].reset_index(drop=True)
    event = st.dataframe(
        shown,
        hide_index=True,
        height=250,
        key=f"offer-{asked}",
        on_select="rerun",
        selection_mode="single-row",
        placeholder="–",
        alt="Models on offer with parameters, MACs, input size and ImageNet top-1",
        column_config={
            "model": st.column_config.TextColumn(
                "Model", width="large", help="name and pretrained weights, as timm has"
            ),
            "family": st.column_config.TextColumn("Family"),
            "parameters_m": st.column_config.NumberColumn("Parameters (M)", format="%.1f", help="millions"),
            "gmacs": st.column_config.NumberColumn("GMACs", format="%.2f", help="multiply-accumulates for one image"),
            "input_px": st.column_config.NumberColumn("Input (px)", format="%d"),
            "top1": st.column_config.NumberColumn(
                "Top-1 (%)",
                format="%.2f",
                help="of the float model on ImageNet-1k's 50000 validation images, as timm publishes it in "
                "results-imagenet.csv; not measured here",
            ),
        },
    )
    rows = event.selection.rows  # type: ignore[attr-defined]
    chosen = shown["model"][rows[0]] if rows else None
    if chosen and chosen != st.session_state.get("offer-taken"):
        st.session_state["new-model"] = chosen
    st.session_state["offer-taken"] = chosen
    st.caption(f"{len(shown)} of {len(table)} models. Choose a row to fill in the model.")


def new_study() -> None:
    """A form for another study; what is wrong is said at once and nothing is lost."""
    offer()
    with st.form("new-study", border=False):
        left, right = st.columns(2)
        model = left.text_input(
            "Model",
            key="new-model",
            placeholder="deit_tiny_patch16_224, hf-hub:timm/…, local-dir:/…",
            help=help_of(ModelSpec, "name"),
        )
        data = right.text_input(
            "Images",
            key="new-data",
            placeholder="/data/imagenet/val",
            help=help_of(DataSpec, "source") + "; folders are those of the machine this dashboard runs on",
        )
        checkpoint = left.text_input(
            "Checkpoint (optional)", key="new-checkpoint", help=help_of(ModelSpec, "checkpoint")
        )
        calibration = right.text_input(
            "Folder of calibration images (optional)",
            key="new-calibration",
            help=help_of(DataSpec, "calibration_source"),
        )
        one, two, three = st.columns(3)
        help_calibrate, help_validate = help_of(DataSpec, "calibration_images"), help_of(DataSpec, "validation_images")
        calibrate = one.number_input("Calibration images", 0, value=256, step=32, help=help_calibrate)
        validate = two.number_input("Validation images", 0, value=0, step=100, help=help_validate)
        seed = three.number_input("Seed", 0, value=0, key="new-seed", help=help_of(DataSpec, "seed"))
        pressed = st.form_submit_button("Start the study", type="primary", icon=":material/play_arrow:")
    if not pressed:
        return
    if not model.strip() or not data.strip():
        st.error("A study needs a model and images. Type both; `builtin` is a model and a data set.")
        return
    asked = Namespace(model=model.strip(), checkpoint=checkpoint.strip(), data=data.strip())
    asked.calibration_source, asked.seed = calibration.strip(), int(seed)
    asked.calibration_images, asked.validation_images = int(calibrate), int(validate)
    try:
        made = store.create_study(Recipe(model=model_spec(asked), data=data_spec(asked)))
        start_analysis(made)
    except (InputError, OSError) as error:
        st.error(str(error))
        return
    st.session_state["next-study"] = made.name
    st.rerun()


study = store.open_study(st.session_state["study"])
running = any(job.alive for job in jobs.list_jobs(study))

st.title("Study")
st.caption(f"Model **{study.model.name}** on images **{study.data.source}**")
with st.container():  # of their own, so that what comes and goes in them moves no other element's place
    for sentence in study.damaged():
        st.warning(sentence, icon=":material/healing:")
with st.container():
    st.fragment(progress_panel, run_every=1.0 if running else None)(study)
facts(study)
st.subheader("Sensitivity", help="How much the model suffers when a layer gets fewer bits; bright is worse.")
with st.container():
    heatmaps(study, running)

tabs = st.tabs(["Jobs", "Start another study", "Provenance"], key="study-tabs", on_change="rerun")
with tabs[0]:
    st.fragment(job_list, run_every=1.0 if running else None)(study)
with tabs[1]:
    new_study()
with tabs[2]:
    provenance(study)
    end_of(study)
