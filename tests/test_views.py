"""Pages over a study made of plain numbers: what they show, what they ask of the engine, what they refuse."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from synthetic_study import make_study

from lampq_engine import jobs
from lampq_engine.files import write_json
from lampq_engine.jobs import Job
from lampq_engine.recipe import Budgets, ModelSpec, Recipe, from_toml, to_toml
from lampq_engine.store import Study

sys.path.insert(0, str(Path(__file__).parents[1] / "app"))  # as Streamlit does for the pages

from history import History

MAIN = str(Path(__file__).parents[1] / "app" / "main.py")
VIEWS = ("study", "sensitivity", "allocation", "refine", "compare", "methods", "present", "jobs")

Started = list[tuple[str, list[str]]]


@pytest.fixture(autouse=True)
def studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAMPQ_STUDIES", str(tmp_path))
    return tmp_path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """What pages start, in place of starting it."""
    found: Started = []

    def start(study: Study, arguments: Sequence[str], *, title: str) -> Job:
        found.append((title, list(arguments)))
        return Job(study.path / "jobs" / "none")

    monkeypatch.setattr(jobs, "start", start)
    return found


def opened(view: str, **query: str) -> AppTest:
    page = AppTest.from_file(MAIN, default_timeout=60)
    for name, value in query.items():
        page.query_params[name] = value
    page.run()
    if view != "study":
        page.switch_page(f"views/{view}.py").run()
    assert not page.exception, page.exception[0].value
    return page


def button(page: AppTest, label: str):  # type: ignore[no-untyped-def]
    return next(found for found in page.button if found.label == label)


def ask(page: AppTest, **budgets: float) -> None:
    """Set budgets, as their cards do; the cards themselves are walked in the browser."""
    past = page.session_state["history-builtin"]
    spec = replace(past.now.spec, budgets=Budgets(**budgets))
    page.session_state["history-builtin"] = past.changed(replace(past.now, spec=spec))
    page.run()


def texts(page: AppTest) -> str:
    return " ".join(
        str(element.value) for kind in ("info", "error", "warning", "caption") for element in page.get(kind)
    )


@pytest.mark.parametrize("view", VIEWS)
def test_every_page_opens_on_a_whole_study(view: str, studies: Path) -> None:
    make_study(studies)
    page = opened(view)
    assert view == "present" or page.title[0].value.lower() == view  # a slide has a headline of its own


@pytest.mark.parametrize("view", VIEWS)
def test_every_page_opens_on_a_study_that_has_nothing_yet_and_says_what_to_do(
    view: str, studies: Path, started: Started
) -> None:
    page = opened(view)
    assert page.title[0].value.lower() == view
    assert page.info or page.caption
    assert started == [
        ("Analyse builtin", ["analyse", "--study", "builtin", "--model", "builtin", "--data", "builtin"])
    ]


@pytest.mark.parametrize("name", ["layers.json", "float.json", "sensitivity/lampq.json", "analysis.json"])
def test_a_damaged_file_is_named_and_breaks_no_page(name: str, studies: Path) -> None:
    study = make_study(studies)
    (study.path / name).write_text('{"key": "made", "val')
    for view in VIEWS:
        opened(view)
    assert any(Path(name).name in warning.value and "damaged" in warning.value for warning in opened("study").warning)


def test_a_study_that_cannot_be_opened_leaves_the_others_at_hand(studies: Path) -> None:
    make_study(studies)
    (make_study(studies, recipe=Recipe(model=ModelSpec("broken")), trials=False).path / "study.json").write_text("{")
    page = AppTest.from_file(MAIN, default_timeout=60)
    page.run()
    assert not page.exception
    assert "damaged" in page.error[0].value
    page.selectbox(key="study").set_value("builtin").run()
    assert not page.error
    assert page.title


def test_a_link_brings_its_study_back(studies: Path) -> None:
    make_study(studies)
    other = make_study(studies, recipe=Recipe(model=ModelSpec("deit_tiny_patch16_224")), trials=False)
    assert opened("study", study=other.name).selectbox(key="study").value == other.name
    assert opened("study", study="builtin").selectbox(key="study").value == "builtin"


def test_a_link_to_a_study_that_is_not_there_says_so(studies: Path) -> None:
    make_study(studies)
    page = opened("study", study="gone")
    assert page.selectbox(key="study").value == "builtin"
    assert "gone" in page.toast[0].value


def test_a_typed_budget_is_solved_and_quantized(studies: Path, started: Started) -> None:
    study = make_study(studies)
    page = opened("allocation")
    ask(page, mean_bits=2.75)
    assert float(page.metric[0].value) == pytest.approx(2.75, abs=0.02)
    button(page, "Quantize and measure").click().run()
    title, arguments = started[-1]
    assert title == "Quantize: LampQ at 2.75 bits"
    assert arguments[:4] == ["quantize", "--study", "builtin", "--recipe"]
    recipe = from_toml(Path(arguments[4]).read_text())
    assert recipe.allocation.budgets == Budgets(mean_bits=2.75)
    assert recipe.model == replace(study.model, hash="0123456789abcdef")
    button(page, "Run controls").click().run()
    assert started[-1][1] == ["controls", *arguments[1:]]


def test_an_infeasible_budget_gets_one_sentence_with_the_nearest_feasible_one(studies: Path, started: Started) -> None:
    make_study(studies)
    page = opened("allocation")
    ask(page, mean_bits=1.0)
    assert "No allocation meets the budget" in texts(page)
    assert "at least mean bits 2" in texts(page)
    assert float(page.metric[0].value) == pytest.approx(2.0)
    button(page, "Quantize and measure").click().run()
    assert "No allocation meets the budget" in page.toast[0].value
    assert not started


def test_two_budgets_hold_at_once_and_free_widths_differ(studies: Path) -> None:
    make_study(studies)
    page = opened("allocation")
    page.segmented_control(key="tied").set_value("free").run()
    ask(page, gbops=1.2, mean_bits=5.0)
    assert float(page.metric[2].value.split()[0]) <= 1.2
    assert float(page.metric[0].value) <= 5.0


@pytest.mark.parametrize("label", ["Refine bits", "Refine with QAT"])
def test_refining_names_the_trial(label: str, studies: Path, started: Started) -> None:
    make_study(studies)
    button(opened("refine", trial="mixed-2-5"), label).click().run()
    assert started[-1][1][1:5] == ["--study", "builtin", "--trial", "mixed-2-5"]


def test_a_trained_trial_shows_its_course_and_cannot_be_trained_again(studies: Path) -> None:
    make_study(studies)
    page = opened("refine", trial="mixed-2-5-qat")
    assert "trained already" in page.info[0].value
    assert not page.button


def test_a_new_study_starts_with_what_was_typed(studies: Path, started: Started) -> None:
    make_study(studies)
    page = opened("study")
    page.text_input(key="new-model").set_value("deit_tiny_patch16_224")
    page.text_input(key="new-data").set_value(str(studies))
    page.number_input(key="new-seed").set_value(7)
    button(page, "Start the study").click().run()
    assert not page.exception
    _, arguments = started[-1]
    assert arguments[3:7] == ["--model", "deit_tiny_patch16_224", "--data", str(studies)]
    assert arguments[-2:] == ["--seed", "7"]
    assert page.selectbox(key="study").value == arguments[2]


def test_a_new_study_without_a_model_gets_a_sentence(studies: Path, started: Started) -> None:
    make_study(studies)
    page = opened("study")
    button(page, "Start the study").click().run()
    assert "A study needs a model and images" in page.error[0].value
    assert not started


def test_an_uploaded_recipe_is_checked_against_the_study(studies: Path, started: Started) -> None:
    study = make_study(studies)
    page = opened("compare")
    own = study.trial("mixed-2-5").recipe
    page.file_uploader[0].upload("own.toml", to_toml(own).encode(), "application/toml").run()
    assert "fits this model" in page.success[0].value
    button(page, "Quantize and measure this recipe").click().run()
    assert started[-1][1][0] == "quantize"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("title = 3", "recipe.toml.title"),
        ("title = ", "not valid TOML"),
        ('[model]\nhash = "ffff"', "made for another model"),
        ("[allocation.pins]\nlayer9 = [4, 4]", "layers that this model does not have, first 'layer9'"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_with_a_sentence(text: str, sentence: str, studies: Path) -> None:
    make_study(studies)
    page = opened("compare")
    page.file_uploader[0].upload("recipe.toml", text.encode(), "application/toml").run()
    assert sentence in page.error[0].value
    assert not page.success


def test_a_session_holds_choices_only(studies: Path) -> None:
    make_study(studies)
    for view in VIEWS:
        session = opened(view).session_state
        for key in ("study", "trial", "driven-budget", "metric", "history-builtin"):
            value = session[key] if key in session else None  # noqa: SIM401
            assert isinstance(value, str | float | History | None)


def test_studies_that_cannot_be_made_are_said_so(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = studies / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("LAMPQ_STUDIES", str(blocked))
    page = AppTest.from_file(MAIN, default_timeout=60).run()
    assert not page.exception
    assert page.error


def test_a_removed_trial_leaves_the_pages_whole(studies: Path) -> None:
    study = make_study(studies)
    page = opened("refine", trial="mixed-2-5")
    shutil.rmtree(study.path / "trials" / "mixed-2-5")
    page.run()
    assert not page.exception


def test_the_methods_page_says_how_to_fill_itself_and_shows_what_was_compared(studies: Path) -> None:
    study = make_study(studies)
    page = opened("methods")
    assert "have not been compared" in page.info[0].value
    assert "lampq_engine methods --study" in page.code[0].value
    rows = [
        {"method": "LampQ", "engine": "same", "mean_bits": 2.5, "trial": "mixed-2-5"},
        {"method": "Control: random", "engine": "same", "mean_bits": 2.5, "trial": "random-2-5"},
        {"method": "Gone", "engine": "own", "mean_bits": 2.5, "trial": "deleted"},
    ]
    write_json(study.path / "methods.json", {"rows": rows})
    table = opened("methods").dataframe[0].value
    assert list(table["method"]) == ["LampQ", "Control: random"]
    assert (table["low"] < table["top-1"]).all()
