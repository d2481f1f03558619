"""Files are whole or untouched, whatever happens half-way; what is stale or damaged is made anew."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lampq_engine.errors import InputError
from lampq_engine.files import key_of, once, read_json, safe_name, slug, write_bytes, write_json

FULL = r"^The disk is full: record\.json \(0\.0 MB\) could not be written\. Free space under .*; nothing was lost\.$"


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_one_sentence_and_the_old_file_stays(tmp_path: Path, monkeypatch, call: str) -> None:
    path = tmp_path / "record.json"
    write_json(path, {"old": 1})
    monkeypatch.setattr(os, call, full)
    with pytest.raises(InputError, match=FULL):
        write_json(path, {"new": 2})
    monkeypatch.undo()
    assert read_json(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["record.json"]


def test_a_full_disk_where_not_even_the_folder_can_be_made(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(InputError, match=FULL):
        write_json(tmp_path / "deeper" / "record.json", 1)


def test_a_real_limit_half_way_through_the_bytes(tmp_path: Path) -> None:
    """The kernel itself stops the write, in a process of its own."""
    path = tmp_path / "record.json"
    write_json(path, {"old": 1})
    code = f"""
import pathlib, resource, signal
from lampq_engine.files import write_bytes
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_bytes(pathlib.Path({str(path)!r}), b"x" * 100000)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert "InputError: The disk is full: record.json (0.1 MB) could not be written." in run.stderr
    assert read_json(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["record.json"]


def test_other_failures_are_not_called_a_full_disk(tmp_path: Path, monkeypatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EACCES, "refused")

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(PermissionError):
        write_bytes(tmp_path / "x", b"")
    assert os.listdir(tmp_path) == []


def test_json_there_and_back_with_infinity_as_null(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "x.json"
    write_json(path, {"a": [1, 2.5, math.nan, (math.inf, "x")], "b": {"c": None}})
    assert read_json(path) == {"a": [1, 2.5, None, [None, "x"]], "b": {"c": None}}


@pytest.mark.parametrize("content", [b"", b'{"key": "k", "val', b"\xff\xfe\x00", b"{]"])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "float.json"
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"float\.json is damaged: .* Expected a whole JSON file\. Delete this file and"
    ):
        read_json(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.json does not exist\. Check the name, or make it first\.$"):
        read_json(tmp_path / "gone.json")


def test_once_makes_once_and_reads_what_it_made(tmp_path: Path) -> None:
    made = []

    def make() -> dict[str, object]:
        made.append(1)
        return {"pair": (1, 2), "bad": math.nan}

    path = tmp_path / "x.json"
    first, read = once(path, "k", make)
    assert not read
    assert once(path, "k", make) == (first, True)
    assert first == {"pair": [1, 2], "bad": None}
    assert made == [1]


@pytest.mark.parametrize(
    "content", ["", '{"key": "k", "value": [1', '{"key": "other", "value": 1}', '{"key": "k"}', "[1]", "null"]
)
def test_once_makes_anew_what_is_damaged_or_stale(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    assert once(path, "k", lambda: 7) == (7, False)
    assert json.loads(path.read_text()) == {"key": "k", "value": 7}


def test_once_leaves_the_old_file_if_making_fails(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"key": "old", "value": 1})
    with pytest.raises(ZeroDivisionError):
        once(path, "k", lambda: 1 // 0)
    assert read_json(path) == {"key": "old", "value": 1}


def test_keys_depend_on_values_alone() -> None:
    assert key_of({"a": 1, "b": [2.5, math.nan]}) == key_of({"b": [2.5, math.inf], "a": 1})
    assert key_of("a", "b") != key_of("ab") != key_of("b", "a")
    assert len(key_of(1)) == 16


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "-x", "a b", "a\n", "x" * 121, "é"])
def test_a_name_that_could_lead_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(
        InputError, match=r"is not a name for a trial\. Expected letters, digits, .* Choose another name"
    ):
        safe_name(name, "trial")


def test_names_that_are_fine() -> None:
    assert safe_name("lampq-3.5_bits", "trial") == "lampq-3.5_bits"
    assert slug("hf-hub:timm/ViT Tiny!") == "hf-hub-timm-vit-tiny"
    assert slug("///") == "x"
