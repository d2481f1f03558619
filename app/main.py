"""Entry of the dashboard (`streamlit run app/main.py`): navigation, the study in hand, and nothing else."""

from pathlib import Path

import frozen  # noqa: F401
import streamlit as st
from choosing import choose_study
from links import follow_link
from sharing import share
from watching import sidebar_jobs

ASSETS = Path(__file__).parent.parent / "assets"

st.logo(str(ASSETS / "logo.svg"), icon_image=str(ASSETS / "icon.svg"), size="large")

page = st.navigation(
    [
        st.Page(
            "views/study.py",
            title="Study",
            icon=":material/science:",
            default=True,
            help="The model and its data, how the analysis goes, and every job.",
        ),
        st.Page(
            "views/sensitivity.py",
            title="Sensitivity",
            icon=":material/local_fire_department:",
            help="Which layers suffer most from fewer bits.",
        ),
        st.Page(
            "views/allocation.py",
            title="Allocation",
            icon=":material/tune:",
            help="Drag a budget; the exact solver gives every layer its bits.",
        ),
        st.Page(
            "views/refine.py",
            title="Refine",
            icon=":material/model_training:",
            help="Trade bits between layers, or train the quantized model.",
        ),
        st.Page(
            "views/compare.py",
            title="Compare",
            icon=":material/monitoring:",
            help="Accuracy against size and compute, what two trials do differently, and the files to take away.",
        ),
        st.Page(
            "views/present.py",
            title="Present",
            icon=":material/slideshow:",
            help="Sensitivity, allocation and curves in large type, for a screen that others look at.",
        ),
        st.Page(
            "views/jobs.py",
            title="Jobs",
            icon=":material/list:",
            help="The queue for the device, logs, and what can be resumed.",
        ),
        st.Page(
            "views/methods.py",
            title="Methods",
            icon=":material/compare_arrows:",
            help="The published systems side by side at equal budgets, and where relevance lies.",
        ),
    ]
)

st.set_page_config(
    page_title="LampQ Studio",
    page_icon=str(ASSETS / "icon.svg"),
    layout="wide",
    initial_sidebar_state="collapsed" if page.title == "Present" else "expanded",
)
study = choose_study()
if study is not None:
    follow_link(study)
    share(study, page.url_path)
    sidebar_jobs(study, shown=page.title not in ("Study", "Jobs"))  # these pages show jobs themselves
    page.run()
