"""The contract of the command line: help for everything, results alone on stdout, JSON that says what was measured."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shlex
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_bad_input import FAST, SMALL, Ran

from lampq_engine.commands import main
from lampq_engine.commands.parsers import parser
from lampq_engine.commands.request import shipped_recipes
from lampq_engine.files import write_bytes
from lampq_engine.jobs import device_turn
from lampq_engine.journal import Report
from lampq_engine.store import Study, open_study
from lampq_engine.types import Sensitivity

ROOT = Path(__file__).parents[1]
ACCURACY = {"top1", "low", "high", "images"}


def subparsers() -> dict[str, argparse.ArgumentParser]:
    action = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a small study, `small`, and one trial in it; the commands below add to it."""
    folder = tmp_path_factory.mktemp("studies")
    (folder / "fast.toml").write_text(FAST)
    shared = ["--studies", str(folder), "--study", "small", "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAMPQ_STUDIES", str(folder))
        assert main(["analyse", *SMALL, *shared]) == 0
        assert main(["quantize", "--recipe", str(folder / "fast.toml"), *shared]) == 0
        yield folder


@pytest.fixture
def study(root: Path) -> Study:
    return open_study("small", root)


Command = Callable[..., Ran]


@pytest.fixture
def command(root: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: object) -> Ran:
        capfd.readouterr()
        return Ran(main(list(map(str, arguments))), *capfd.readouterr())

    return run


# --- help


@pytest.mark.parametrize("name", subparsers())
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "--json" in shown
    for action in subparsers()[name]._actions:
        assert action.help, f"{name} {action.option_strings} has no help"


def test_help_names_every_command() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "lampq_engine", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert all(re.search(rf"^ +{name}\b", shown.stdout, re.MULTILINE) for name in subparsers())
    assert shown.stderr == ""


def test_an_unknown_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["studies", "--colour"])
    assert ended.value.code == 2
    assert "--colour" in capsys.readouterr().err


# --- results


READS: dict[str, list[str]] = {
    "studies": [],
    "sensitivity": ["--study", "small", "--metric", "fisher"],
    "allocate": ["--study", "small", "--mean-bits", "3"],
    "explain": ["--study", "small", "--mean-bits", "3", "--layer", "blocks.0.attn.qkv"],
    "frontier": ["--study", "small", "--points", "3"],
    "compare": ["--study", "small"],
    "jobs": ["--study", "small"],
}


@pytest.mark.parametrize("name", READS)
def test_json_is_all_there_is_on_stdout(command: Command, name: str) -> None:
    plain = command(name, *READS[name], "--json")
    assert plain.code == 0
    assert json.loads(plain.out) is not None
    text = command(name, *READS[name])
    assert text.code == 0
    assert text.out.strip()
    assert not text.out.lstrip().startswith(("{", "["))


def read(command: Command, *arguments: object) -> Any:
    ran = command(*arguments, "--json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def accuracy(row: dict[str, Any]) -> None:
    """An accuracy comes with its images and an interval that holds it."""
    assert row.keys() >= ACCURACY
    assert row["images"] == 60
    assert 0 <= row["low"] <= row["top1"] <= row["high"] <= 100


def test_accuracies_come_with_images_and_interval(command: Command, study: Study) -> None:
    accuracy(read(command, "studies")[0])
    rows = read(command, "compare", "--study", "small")
    assert rows[0]["trial"] == "float"
    assert len(rows) >= 2
    for row in rows:
        accuracy(row)
    shown = command("compare", "--study", "small").out
    assert all(name in shown.splitlines()[0].split() for name in ACCURACY)


def test_progress_goes_to_stderr(command: Command, root: Path) -> None:
    """An analysis that is there already answers at once, with what a result depends on."""
    ran = command("analyse", "--study", "small", *SMALL, "--json")
    plain = json.loads(ran.out)
    assert "load model" in ran.err
    accuracy({**plain["float"], "low": plain["interval"][0], "high": plain["interval"][1]})
    assert plain["versions"].keys() >= {"python", "torch", "timm", "ortools"}
    assert {"fisher", "lampq", "random"} <= set(plain["metrics"])
    assert (plain["seed"], plain["counts"]) == (0, {"calibration": 12, "validation": 60})
    quiet = command("analyse", "--study", "small", *SMALL, "--quiet")
    assert quiet.err == ""
    assert re.search(r"float top-1 [\d.]+ % \(95 % interval [\d.]+ to [\d.]+, 60 validation images\)", quiet.out)


def test_a_long_metric_lets_a_waiting_job_run_first(
    command: Command, root: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`analyse` passes its turn on during the metrics nobody waits for, and then goes on."""
    order, asked, waiting = [], threading.Event(), threading.Event()

    def short() -> None:
        asked.wait(60)
        with device_turn(root, on_wait=waiting.set):
            order.append("short")

    def harm(*_: object, report: Report, **__: object) -> Sensitivity:
        asked.set()
        assert waiting.wait(60)
        for step in range(500):
            report("harm", step, 500)
            if order:
                break
        order.append("long")
        return study.sensitivity("fisher")

    step = importlib.import_module("lampq_engine.steps.analyse")
    monkeypatch.setattr(step, "measured_harm", harm)
    monkeypatch.setattr(step, "output_fisher", lambda *_, **__: study.sensitivity("fisher"))
    other = threading.Thread(target=short)
    other.start()
    assert command("analyse", "--study", "small", *SMALL[:-1], "--quiet").code == 0
    other.join(60)
    assert order == ["short", "long"]
    for name in ("harm", "output"):
        (study.path / "sensitivity" / f"{name}.json").unlink()


def test_sensitivity_says_unit_images_and_error(command: Command) -> None:
    plain = read(command, "sensitivity", "--study", "small", "--metric", "fisher")
    assert (plain["unit"], plain["images"], len(plain["rows"])) == ("squared gradient norm", 12, 50)
    scores = [row[plain["unit"]] for row in plain["rows"]]
    assert scores == sorted(scores, reverse=True)
    assert all(row["error"] >= 0 for row in plain["rows"])


def test_allocation_says_how_the_solver_went(command: Command) -> None:
    plain = read(command, "allocate", "--study", "small", "--mean-bits", 3, "--pin", "head=4/8", "--menu", "fc2=4,6")
    assert plain["solution"]["status"] == "optimal"
    assert plain["solution"]["gap"] <= 1e-4
    assert plain["cost"]["mean_bits"] <= 3
    assert plain["bits"]["head"] == [4, 8]
    assert {tuple(bits) for name, bits in plain["bits"].items() if name.endswith("fc2")} <= {(4, 4), (6, 6)}


def test_frontier_holds_the_other_budgets(command: Command) -> None:
    rows = read(command, "frontier", "--study", "small", "--along", "mean_bits", "--points", 4, "--gbops", 1.5)
    assert len(rows) == 4
    solved = [row for row in rows if row["status"] == "optimal"]
    assert solved
    assert all(row["gbops"] <= 1.5 * (1 + 1e-9) for row in solved)
    harms = [row["harm"] for row in solved]
    assert harms == sorted(harms, reverse=True)


def test_a_trial_from_quantize_to_verify(command: Command, root: Path, study: Study, tmp_path: Path) -> None:
    """Asking for what is there already is free; the files that go out are those that were measured."""
    (trial,) = study.trials()
    row = read(command, "quantize", "--study", "small", "--recipe", root / "fast.toml")
    accuracy(row)
    assert row["trial"] == trial.id
    assert row["megabytes"] == pytest.approx(row["predicted_megabytes"], rel=0.01)
    exported = read(command, "export", "--study", "small", "--trial", trial.id, "--to", tmp_path / "out")
    assert Path(exported["packed"]).read_bytes() == trial.packed.read_bytes()
    found = read(command, "verify", exported["packed"], "--study", "small")
    assert found["evaluation"]["images"] == 60
    assert found["evaluation"]["top1"] == pytest.approx(row["top1"])
    assert found["interval"] == pytest.approx([row["low"], row["high"]])
    assert found["megabytes"] == pytest.approx(row["megabytes"])
    again = read(command, "quantize", "--study", "small", "--recipe", exported["recipe"])
    assert again["trial"] == trial.id


def test_later_commands_keep_the_settings_of_the_analysis(command: Command, study: Study) -> None:
    before = {path: path.read_bytes() for path in (study.path / "sensitivity").iterdir()}
    assert study.sensitivity_spec.probes == 1
    assert command("quantize", "--study", "small", "--uniform", "32/32").code == 0
    assert {path: path.read_bytes() for path in (study.path / "sensitivity").iterdir()} == before


def test_whoever_reads_may_stop_reading(root: Path) -> None:
    line = f"{shlex.quote(sys.executable)} -m lampq_engine sensitivity --study small --metric fisher | head -n 1"
    ran = subprocess.run(["bash", "-o", "pipefail", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Traceback" not in ran.stderr
    assert ran.stdout.startswith("layer")


# --- files


def test_files_may_be_read_by_whom_the_umask_allows(tmp_path: Path) -> None:
    for mask, mode in ((0o022, 0o644), (0o027, 0o640), (0o077, 0o600)):
        before = os.umask(mask)
        try:
            write_bytes(tmp_path / "x", b"")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode


# --- what the README says


def documented() -> list[list[str]]:
    """Every `python -m lampq_engine ...` line of the README, as arguments."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [shlex.split(line)[3:] for line in re.findall(r"^python -m lampq_engine .*$", text, re.MULTILINE)]


@pytest.mark.parametrize("arguments", documented(), ids=" ".join)
def test_documented_commands_parse(arguments: list[str]) -> None:
    options = parser().parse_args(arguments)
    for name in (getattr(options, "recipe", ""), getattr(options, "file", "")):
        assert not name or (shipped_recipes() / f"{name}.toml").is_file()


@pytest.mark.parametrize("arguments", [a for a in documented() if a[0] in READS], ids=" ".join)
def test_documented_commands_that_only_read_run(command: Command, arguments: list[str]) -> None:
    assert documented()
    assert command(*[{"builtin": "small"}.get(a, a) for a in arguments]).code == 0
