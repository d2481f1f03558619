"""Bad input, end to end through the command line: one clear sentence, exit status 2, and nothing is lost."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from PIL import Image
from sklearn.datasets import load_digits

from lampq_engine import jobs
from lampq_engine.commands import main
from lampq_engine.jobs import Job
from lampq_engine.journal import read_events
from lampq_engine.recipe import Recipe, to_toml
from lampq_engine.store import Study, list_studies, open_study
from lampq_engine.types import Bits

ROOT = Path(__file__).parents[1]
FAST = """[allocation]
solver = "uniform"
uniform = [4, 4]
[sensitivity]
probes = 1
[quantization]
range = "minmax"
bias = "keep"
images = 8
"""
SMALL = ["--calibration-images", "12", "--validation-images", "60", "--probes", "1", "--quick"]


@dataclass(frozen=True)
class Ran:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """What a person reads of a refusal: a single line."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0].removeprefix("error: ")


Command = Callable[..., Ran]


@pytest.fixture
def command(studies: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run one command over `studies` in this process."""
    monkeypatch.setenv("LAMPQ_STUDIES", str(studies))

    def run(*arguments: object) -> Ran:
        capfd.readouterr()
        code = main([*map(str, arguments), "--quiet"])
        return Ran(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small study of the built-in model, `small`, with one trial; made once, never changed."""
    root = tmp_path_factory.mktemp("made")
    shared = ["--studies", str(root), "--study", "small", "--quiet"]
    before = os.environ.get("LAMPQ_STUDIES")
    assert main(["analyse", *SMALL, *shared]) == 0
    recipe = root / "fast.toml"
    recipe.write_text(FAST)
    assert main(["quantize", "--recipe", str(recipe), *shared]) == 0
    os.environ.pop("LAMPQ_STUDIES")
    if before is not None:
        os.environ["LAMPQ_STUDIES"] = before
    return root


@pytest.fixture
def study(made: Path, studies: Path) -> Study:
    """A copy of the study to do bad things to."""
    shutil.copytree(made / "small", studies / "small")
    return open_study("small", studies)


def contents(root: Path) -> dict[str, str]:
    """Every file under a folder and the hash of what it holds."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".device.")  # locks
    }


def refused(command: Command, arguments: Sequence[object], pattern: str, *, root: Path) -> str:
    """The command answers with a sentence that fits, status 2 and nothing on stdout; no file changes, none appears."""
    before = contents(root)
    folders = {path for path in root.rglob("*") if path.is_dir()}
    ran = command(*arguments)
    assert (ran.code, ran.out) == (2, ""), ran.err
    assert re.search(pattern, ran.sentence), ran.sentence
    assert contents(root) == before
    assert {path for path in root.rglob("*") if path.is_dir()} == folders
    for one in list_studies(root):
        assert one.damaged() == []
    return ran.sentence


def digits_folder(root: Path, each: int = 9, classes: int = 10) -> Path:
    """Digits as image files in a folder for each class."""
    scans, labels = load_digits(return_X_y=True)
    for label in range(classes):
        folder = root / f"class-{label}"
        folder.mkdir(parents=True)
        for number, scan in enumerate(scans[labels == label][:each]):
            Image.fromarray((scan.reshape(8, 8) * 15.9).astype("uint8")).save(folder / f"{number}.png")
    return root


# --- models


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (
            "deit_tinny_patch16_224",
            r"^timm has no model 'deit_tinny_patch16_224'\. The nearest are .*deit_tiny_patch16",
        ),
        ("random:resnet18", r"^resnet18 has no attention .* not a Vision Transformer .* Expected .* Choose a model"),
        ("local-dir:/nowhere/at/all", r"model folder /nowhere/at/all does not exist\. Expected a folder with `config"),
        ("some/thing", r"the model name 'some/thing' is not one of timm's\. .*Write `hf-hub:some/thing` or"),
    ],
)
def test_a_model_of_no_use_leaves_no_study(command: Command, studies: Path, model: str, sentence: str) -> None:
    refused(command, ["analyse", "--model", model], sentence, root=studies)
    refused(command, ["analyse", "--model", model, "--study", "mine"], sentence, root=studies)
    assert list_studies(studies) == []
    assert command("studies").out.startswith("no studies yet")


def test_a_refused_model_leaves_the_other_studies_alone(command: Command, study: Study, studies: Path) -> None:
    refused(command, ["analyse", "--model", "random:resnet18"], "not a Vision Transformer", root=studies)
    refused(command, ["analyse", "--model", "random:resnet18", "--study", "small"], "other settings", root=studies)
    assert len(json.loads(command("studies", "--json").out)) == 1


def test_a_study_made_by_the_page_keeps_its_failed_job(command: Command, studies: Path) -> None:
    """The page makes the study first and shows why its job failed; the command must not take it away."""
    from lampq_engine.recipe import ModelSpec
    from lampq_engine.store import create_study

    made = create_study(Recipe(model=ModelSpec(name="random:resnet18")), studies, "resnet")
    assert command("analyse", "--study", "resnet", "--model", "random:resnet18").code == 2
    assert list_studies(studies) == [made]
    row = json.loads(command("studies", "--json").out)[0]
    assert row["state"] == "not analysed to the end"
    wanted = r"not analysed to the end: it has no float\.json\. Run `analyse --study resnet`"
    refused(command, ["compare", "--study", "resnet"], wanted, root=studies)


@pytest.mark.parametrize("model", ["deit_tiny_patch16_224", "hf-hub:someone/something"])
def test_an_unreachable_model(
    command: Command, studies: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: refused at once
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    sentence = refused(command, ["analyse", "--model", model], "the hub cannot be reached", root=studies)
    assert "Offline, `builtin`, `local-dir:<folder>` and a timm name with a checkpoint file work" in sentence


# --- data


def test_data_of_no_use(command: Command, studies: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    (tmp_path / "loose").mkdir()
    empty.mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "loose" / "a.png")
    hollow = tmp_path / "hollow"
    for label in range(10):
        (hollow / str(label)).mkdir(parents=True)
    for folder, sentence in (
        (tmp_path / "nowhere", r"^There is no folder at .*nowhere\. Expected a folder with one .* Check the path\.$"),
        (empty, r"empty is empty: it has no class folders\. Expected .* Check the path\.$"),
        (tmp_path / "loose", r"loose holds images but no class folders\. .* Put each image into a folder named"),
        (hollow, r"There is no image in the class folders of .*hollow\. Expected files that end in \.jpg"),
        (digits_folder(tmp_path / "three", classes=3), r"three has 3 class folders, the model's head has 10 classes"),
        (digits_folder(tmp_path / "few", each=1), r"few holds 10 images\. Expected 256 to calibrate .* none shared"),
    ):
        refused(command, ["analyse", "--data", folder], sentence, root=studies)
    refused(command, ["analyse", "--data", ""], r"^No data is given\. Expected builtin, a folder", root=studies)
    refused(command, ["analyse", "--data", "timm:"], r"timm", root=studies)


def test_too_few_images_to_calibrate(command: Command, studies: Path) -> None:
    wanted = r"^There are 4 calibration images\. Expected at least 8\. Add images"
    refused(command, ["analyse", "--calibration-images", 4], wanted, root=studies)


def test_a_corrupt_image_is_named_skipped_and_counted(command: Command, studies: Path, tmp_path: Path) -> None:
    folder = digits_folder(tmp_path / "digits")
    whole = (folder / "class-3" / "4.png").read_bytes()
    (folder / "class-3" / "4.png").write_bytes(whole[: len(whole) // 2])
    (folder / "class-5" / "notes.png").write_text("these are not pixels")
    ran = command("analyse", "--data", folder, "--study", "own", *SMALL[:2], "--validation-images", 0, *SMALL[4:])
    assert ran.code == 0, ran.err
    assert "skipped class-3/4.png: " in ran.out
    assert "skipped class-5/notes.png: not an image that can be read" in ran.out
    kept = open_study("own", studies)
    assert len(kept.provenance["skipped"]) == 2
    assert kept.provenance["counts"] == {"calibration": 12, "validation": 89 - 12}
    assert f"{89 - 12} validation images" in ran.out
    assert kept.damaged() == []


# --- settings and recipes


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--mean-bits", "-1"], r"^The setting budgets\.mean_bits is -1\.0\. Expected a positive number"),
        (["--mean-bits", "nan"], r"^The setting budgets\.mean_bits is nan\. Expected a positive number"),
        (["--megabytes", "inf"], r"^The setting budgets\.megabytes is inf\."),
        (["--gbops", "0"], r"^The setting budgets\.gbops is 0\.0\."),
        (["--uniform", "9/9"], r"^'9/9' is not a pair of widths\. Expected W/A, such as 4/8, from 1 to 8 or 32"),
        (["--uniform", "4/5/6"], r"^'4/5/6' is not a pair of widths"),
        (["--uniform", ""], None),  # an empty option is one that was not given
        (["--uniform", "four"], r"^'four' is not a pair of widths"),
        (["--pin", "nonsense"], r"^'nonsense' is not a pin\. Expected LAYER=W/A, such as"),
        (["--pin", "blocks.0.attn.qkv=0/8"], r"^'0/8' is not a pair of widths"),
        (["--pin", "layers.9=8/8"], r"layers that this model does not have, first 'layers\.9'\. Expected names such"),
        (["--menu", "qkw=4"], r"^'qkw' is not a kind of layer\. Expected one of patch, qkv, scores"),
        (["--menu", "qkv="], r"^'qkv=' is not a menu\. Expected KIND=WIDTHS"),
        (["--menu", "qkv=2/3/4"], r"^'qkv=2/3/4' is not a menu"),
        (["--menu", "qkv=2,16"], r"^The setting menu\.weights is \[2, 16\]\. Expected one or more widths"),
        (
            ["--metric", "harm", "--mean-bits", "4"],
            r"has no sensitivity 'harm'\. Expected one of fisher, lampq",
        ),
        (
            ["--mean-bits", "1.5"],
            r"^No allocation meets the budget mean bits 1\.5 .* at least mean bits 2 bits\. Raise",
        ),
        (
            ["--recipe", "no-such"],
            r"^There is no recipe 'no-such'\. Expected a TOML file, or a shipped recipe: .*lampq",
        ),
    ],
)
def test_nonsense_options(command: Command, study: Study, options: list[str], sentence: str | None) -> None:
    arguments = ["allocate", "--study", "small", *options]
    if sentence is None:
        assert command(*arguments).code == 0
    else:
        refused(command, arguments, sentence, root=study.path.parent)


def test_the_nearest_budget_works_as_printed(command: Command, study: Study) -> None:
    asked = ["quantize", "--study", "small", "--mean-bits", 3, "--gbops", 0.5]
    sentence = refused(command, asked, "No allocation meets the budget", root=study.path.parent)
    near = re.search(r"at least mean bits ([\d.]+) bits, GBOPs ([\d.]+) GBOPs", sentence)
    assert near
    assert command("allocate", "--study", "small", "--mean-bits", near[1], "--gbops", near[2]).code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["analyse", "--calibration-images", "-5"], r"^The setting data\.calibration_images is -5\. Expected 0 \(all"),
        (["analyse", "--base", "1"], r"^The setting sensitivity\.base is 1\.0\. Expected a number above 1"),
        (["analyse", "--base", "nan"], r"^The setting sensitivity\.base is nan"),
        (["analyse", "--probe-bits", "0"], r"^The setting sensitivity\.probe_bits is 0\."),
        (["analyse", "--study", "../out"], r"^'\.\./out' is not a name for a study\. Expected letters, digits"),
        (["analyse", "--study", "small", "--seed", "7"], r"^The study 'small' is of model .* with other settings"),
        (["frontier", "--study", "small", "--points", "0"], r"^--points is 0\. Expected 2 or more"),
        (["refine", "--study", "small", "--trial", "no-such"], r"no-such.* does not exist|has no trial 'no-such'"),
        (["refine", "--study", "small", "--trial", "TRIAL", "--steps", "-1"], r"^The setting update is \(-1, 2\)"),
        (["finetune", "--study", "small", "--trial", "TRIAL", "--batch", "0"], r"^The setting training\.batch is 0"),
        (["finetune", "--study", "small", "--trial", "TRIAL", "--learning-rate", "nan"], r"training\.learning_rate is"),
        (["compare", "--study", "none"], r"^There is no study 'none' under .* Expected one of: small\. Make it with"),
        (["cancel", "--study", "small", "x"], r"^The study 'small' has no job 'x'\. List its jobs"),
        (["resume", "--study", "small", "../x"], r"^'\.\./x' is not a name for a job"),
        (["verify", "--study", "small", "/no/such.safetensors"], r"^/no/such\.safetensors is not a whole safetensors"),
        (["run", "/no/such.toml"], r"^There is no recipe '/no/such\.toml'"),
    ],
)
def test_nonsense_arguments(command: Command, study: Study, arguments: list[str], sentence: str) -> None:
    (trial,) = study.trials()
    refused(command, [trial.id if a == "TRIAL" else a for a in arguments], sentence, root=study.path.parent)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[allocation\n", r"^bad\.toml is not valid TOML: .* Correct that line, or export the recipe again"),
        ("colour = 'red'", r"^bad\.toml has no setting 'colour'\. Expected only title, source, model"),
        ("[allocation.budgets]\nmean_bitz = 3.0", r"^bad\.toml\.allocation\.budgets has no setting 'mean_bitz'"),
        (
            "[allocation.budgets]\nmean_bits = 'three'",
            r"bad\.toml\.allocation\.budgets\.mean_bits is 'three'\. Expected",
        ),
        ("[allocation.budgets]\nmean_bits = nan", r"budgets\.mean_bits is nan"),
        ("[allocation.pins]\nhead = [9, 9]", r"bad\.toml\.allocation\.pins\.head is \[9, 9\]\. Expected two widths"),
        ("[allocation.menus.qkv]\nweights = []", r"menu\.weights is \[\]"),
        ("[allocation.menus.conv]\nweights = [4]", r"allocation\.menus is \['conv'\]\. Expected only the kinds"),
        ("[sensitivity]\nmetric = 'best'", r"metric is 'best'\. Expected one of lampq"),
        ("[sensitivity]\nprobes = true", r"sensitivity\.probes is True\. Expected a value of type int"),
        ("sensitivity = 3", r"bad\.toml\.sensitivity is 3\. Expected a table of the settings"),
        (b"\xff\xfe\x00", r"bad\.toml cannot be read: .* Expected a TOML text file"),
    ],
)
def test_a_recipe_of_no_use(command: Command, study: Study, tmp_path: Path, text: str | bytes, sentence: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(command, ["quantize", "--study", "small", "--recipe", path], sentence, root=study.path.parent)
    refused(command, ["run", path, "--study", "small"], sentence, root=study.path.parent)


def test_a_recipe_of_another_model(command: Command, study: Study, tmp_path: Path) -> None:
    (trial,) = study.trials()
    recipe = replace(trial.recipe, model=replace(trial.recipe.model, name="deit_base_patch16_224", hash="0" * 16))
    path = tmp_path / "other.toml"
    path.write_text(to_toml(recipe))
    wanted = (
        r"^The recipe was made for another model: deit_base_patch16_224, weights 0{16}\. Expected a recipe for buil"
    )
    refused(command, ["quantize", "--study", "small", "--recipe", path], wanted, root=study.path.parent)
    pinned = replace(trial.recipe.allocation, pins={"layers.3.mlp.fc1": Bits(8, 8)})
    path.write_text(to_toml(replace(trial.recipe, allocation=pinned)))
    wanted = r"names 1 layers that this model does not have, first 'layers\.3\.mlp\.fc1'"
    refused(command, ["quantize", "--study", "small", "--recipe", path], wanted, root=study.path.parent)


# --- damaged files


DAMAGE = {
    "truncated": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "foreign": lambda whole: b"[1]",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["study.json", "layers.json", "float.json", "analysis.json", "sensitivity/lampq.json"])
def test_a_damaged_study_file_is_named_and_hides_nothing(
    command: Command, study: Study, name: str, damage: str
) -> None:
    path = study.path / name
    whole = path.read_bytes()
    path.write_bytes(DAMAGE[damage](whole))
    assert [name in sentence and "is damaged" in sentence for sentence in study.damaged()] == [True]
    assert [trial.id for trial in study.trials()]
    listed = command("studies")
    assert (listed.code, "small" in listed.out) == (0, True)
    for arguments in (["allocate", "--mean-bits", 3], ["compare"], ["sensitivity"], ["frontier", "--points", 2]):
        ran = command(*arguments, "--study", "small")
        assert ran.code == 0 or re.search(rf"{path.name} is damaged: .* Delete this file and run", ran.sentence)
    path.write_bytes(whole)
    assert study.damaged() == []


def test_damaged_files_are_made_again(command: Command, study: Study) -> None:
    """What each sentence says to do, done all at once: the study ends as it was, its trial untouched."""
    before = contents(study.path)
    for name in ("study.json", "layers.json", "float.json", "analysis.json", "sensitivity/fisher.json"):
        path = study.path / name
        path.write_bytes(path.read_bytes()[:30])
    logits = next((study.path / "logits").glob("validation-*"))
    logits.write_bytes(logits.read_bytes()[:100])
    assert len(study.damaged()) == 5
    (study.path / "study.json").unlink()
    assert command("analyse", "--study", "small", *SMALL).code == 0
    assert study.damaged() == []
    after = contents(study.path)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed <= {"study.json", "float.json"}  # the times they were made and taken
    assert study.info["model"] == open_study("small", study.path.parent).info["model"]


def test_a_damaged_trial_or_job_hides_no_other(command: Command, study: Study) -> None:
    (good,) = study.trials()
    shutil.copytree(good.path, study.path / "trials" / "bad")
    (study.path / "trials" / "bad" / "trial.json").write_text('{"id": "bad"')
    for name, record in (("a", "{"), ("b", "[]")):
        (study.path / "jobs" / name).mkdir(parents=True)
        (study.path / "jobs" / name / "job.json").write_text(record)
    ran = command("compare", "--study", "small")
    assert ran.code == 0
    assert good.id in ran.out
    assert re.search(r"bad/trial\.json is damaged: .* Delete", ran.out)
    assert command("jobs", "--study", "small").out == "no jobs\n"
    assert jobs.list_jobs(study) == []
    refused_job = command("resume", "--study", "small", "a")
    assert "has no job 'a'" in refused_job.sentence
    ran = command("export", "--study", "small", "--trial", "bad", "--to", study.path.parent / "out")
    assert re.search(r"trial\.json is damaged", ran.sentence)


@pytest.mark.parametrize("damage", [*DAMAGE, "tampered", "metadata"])
def test_a_damaged_packed_file(command: Command, study: Study, tmp_path: Path, damage: str) -> None:
    (trial,) = study.trials()
    whole = trial.packed.read_bytes()
    path = tmp_path / "packed.safetensors"
    if damage == "tampered":  # a layer's name that the model does not have
        path.write_bytes(whole.replace(b"blocks.0.attn.qkv.bias", b"blocks.x.attn.qkv.bias", 1))
    elif damage == "metadata":
        path.write_bytes(whole.replace(b'\\"architecture\\"', b'\\"architectura\\"', 1))
    else:
        path.write_bytes(DAMAGE[damage](whole))
    wanted = r"packed\.safetensors is (not a whole safetensors file|damaged|not a packed file).* (Export|Choose)"
    refused(command, ["verify", path, "--study", "small"], wanted, root=study.path.parent)


def test_a_damaged_journal(study: Study) -> None:
    path = study.path / "jobs" / "x"
    path.mkdir(parents=True)
    good = '{"time": 1.0, "event": "progress", "stage": "fisher", "done": 3, "total": 9}\n'
    (path / "events.jsonl").write_bytes(
        good.encode() + b'{"time": 2, "ev\n\xff\xfe\n{"event": "progress"}\n{"time": 3,'
    )
    status = Job(path).status()
    assert status.state == "interrupted"
    events, offset = read_events(path / "events.jsonl")
    assert [e["event"] for e in events] == ["progress", "progress"]
    assert read_events(path / "events.jsonl", offset)[0] == []


# --- a full disk


LIMITED = """
import resource, sys
from lampq_engine.commands import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
raise SystemExit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("room", "arguments", "sentence"),
    [
        (
            100_000,
            ["quantize", "--recipe", "RECIPE", "--uniform", "6/6"],
            r"^The disk is full: packed\.safetensors \(\d\.\d MB\) could not be",
        ),
        (100, ["allocate", "--mean-bits", "3"], None),  # only reads
        (100, ["analyse", *SMALL], r"^The disk is full: \w+\.json "),
        (
            2000,
            ["export", "--trial", "TRIAL", "--to", "out"],
            r"^The disk is full: small-\w+\.safetensors .* nothing was",
        ),
    ],
)
def test_a_full_disk(study: Study, tmp_path: Path, room: int, arguments: list[str], sentence: str | None) -> None:
    """The kernel refuses every byte beyond `room`, in a process of its own; even its journal is full."""
    (trial,) = study.trials()
    (tmp_path / "fast.toml").write_text(FAST)
    names = {"TRIAL": trial.id, "out": str(tmp_path / "out"), "RECIPE": str(tmp_path / "fast.toml")}
    arguments = [names.get(a, a) for a in arguments]
    before = contents(study.path)
    events = tmp_path / "events.jsonl"
    shared = ["--studies", str(study.path.parent), "--study", "small", "--events", str(events)]
    line = [sys.executable, "-c", LIMITED, str(room), *arguments, *shared]
    ran = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    found = Ran(ran.returncode, ran.stdout, ran.stderr)
    if sentence is None:
        assert found.code == 0, found.err
    else:
        assert found.code == 2, found.err
        assert re.search(sentence, found.sentence), found.sentence
    assert contents(study.path) == before
    assert study.damaged() == []
    assert [t.id for t in study.trials()] == [trial.id]


def test_a_full_disk_from_the_start_leaves_no_study(studies: Path) -> None:
    line = [sys.executable, "-c", LIMITED, "100", "analyse", "--studies", str(studies)]
    ran = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "The disk is full: study.json" in Ran(ran.returncode, ran.stdout, ran.stderr).sentence
    assert contents(studies) == {}


def test_places_that_cannot_be_used(command: Command, study: Study, tmp_path: Path) -> None:
    (trial,) = study.trials()
    taken = tmp_path / "taken"
    taken.write_text("a file")
    for arguments in (
        ["export", "--study", "small", "--trial", trial.id, "--to", taken],
        ["analyse", "--studies", taken],
    ):
        wanted = r"taken.* cannot be read or written: .* Check the path, its permissions"
        refused(command, arguments, wanted, root=study.path.parent)
    assert taken.read_text() == "a file"


# --- jobs that are stopped


@pytest.fixture
def running() -> Iterator[None]:
    """Nothing outlives the test."""
    yield
    for child in jobs._children:
        if child.poll() is None:
            child.kill()
        child.wait()
    jobs._children.clear()


def wait(until: Callable[[], Any], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def stages(job: Job) -> set[str]:
    return {event["stage"] for event in job.events()[0] if event["event"] == "progress"}


def test_a_job_killed_half_way_goes_on_where_it_was(running: None, study: Study) -> None:
    metrics = study.metrics
    for name in metrics:
        (study.path / "sensitivity" / f"{name}.json").unlink()
    next((study.path / "sensitivity").glob("traces-*")).unlink()
    trial = contents(study.path / "trials")
    job = jobs.start(study, ["analyse", "--study", "small", *SMALL], title="Analyse")
    wait(lambda: "fisher.json" in os.listdir(study.path / "sensitivity"))
    os.kill(job.info["pid"], signal.SIGKILL)
    wait(lambda: not job.alive)
    assert job.state == "interrupted"
    assert study.damaged() == []
    assert "lampq" not in study.metrics
    done = {p: p.stat().st_mtime_ns for p in study.path.rglob("*") if p.suffix == ".safetensors" or p.stem == "fisher"}
    again = jobs.resume(study, job)
    wait(lambda: not again.alive)
    assert (again.state, job.state) == ("finished", "interrupted"), again.log()
    assert study.metrics == metrics
    assert not stages(again) & {"float model", "fisher"}
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert contents(study.path / "trials") == trial
    assert study.damaged() == []


def test_a_cancelled_job_says_so_and_keeps_what_it_has(running: None, study: Study) -> None:
    (study.path / "sensitivity" / "lampq.json").unlink()
    trial = contents(study.path / "trials")
    job = jobs.start(study, ["analyse", "--study", "small", *SMALL], title="Analyse")
    wait(lambda: stages(job))
    job.cancel()
    assert jobs._children[-1].wait(60) == 130
    assert (job.state, job.events()[0][-1]["event"]) == ("cancelled", "cancelled")
    assert "cancelled" in job.log()
    assert study.damaged() == []
    assert contents(study.path / "trials") == trial
