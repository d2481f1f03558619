"""Imports point down only; half of the engine needs no torch, the pages never load it, the engine knows no page."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up. A module, or a package as a whole, imports only what stands before it.
TORCH_FREE = [
    "errors",
    "types",
    "plain",
    "recipe",
    "ties",
    "cost",
    "problem",
    "narrow",
    "allocate",
    "frontier",
    "explain",
    "controls",
    "files",
    "journal",
    "greedy",
    "update",
    "records",
    "store",
    "traces",
    "inspection",
    "solve",
    "predictions",
    "compare",
    "jobs",
    "remove",
    "figures",
    "report_style",
    "report",
]
TORCH = [
    "quantizers",
    "fold_rules",
    "folds",
    "data",
    "models",
    "tokens",
    "importance",
    "quantized",
    "fitting",
    "compensate",
    "attention_folds",
    "stages",
    "reconstruct",
    "sequence",
    "quantize",
    "evaluate",
    "checkpoint",
    "finetune",
    "sensitivity",
    "zero_shot",
    "pack",
    "builtin",
    "steps",
]
# The command line parses without torch and imports a step only inside the command that runs it.
TOP = ["commands", "__main__"]
ORDER = TORCH_FREE + TORCH + TOP


def imports(path: Path) -> Iterator[str]:
    """Full names of what a file imports, inside functions too."""
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, node.module or ""]).strip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def part(name: str) -> str:
    """`lampq_engine.models.load` -> `models`; empty for the package itself and for anything else."""
    names = name.split(".")
    return names[1] if names[0] == "lampq_engine" and len(names) > 1 else ""


def engine() -> list[Path]:
    return sorted((ROOT / "lampq_engine").rglob("*.py"))


def pages() -> list[Path]:
    return sorted((ROOT / "app").rglob("*.py"))


def owner(path: Path) -> str:
    return path.relative_to(ROOT / "lampq_engine").with_suffix("").parts[0]


def show(path: Path) -> str:
    return str(path.relative_to(ROOT))


def run(code: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)


def test_every_module_has_its_place_in_the_order() -> None:
    there = {owner(path) for path in engine()} - {"__init__"}
    assert sorted(there - set(ORDER)) == []
    assert len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize("path", engine(), ids=show)
def test_imports_point_down(path: Path) -> None:
    here = owner(path)
    if here == "__init__":
        assert [name for name in imports(path) if name != "__future__" and not name.startswith("__future__.")] == []
        return
    allowed = set(ORDER[: ORDER.index(here) + 1])
    if here in TORCH_FREE:
        assert allowed <= set(TORCH_FREE)
    used = {part(name) for name in imports(path)} - {""}
    assert sorted((used & set(ORDER)) - allowed) == []


@pytest.mark.parametrize("path", engine(), ids=show)
def test_the_engine_knows_no_page(path: Path) -> None:
    assert {name.split(".")[0] for name in imports(path)}.isdisjoint({"streamlit", "app"})


@pytest.mark.parametrize("path", pages(), ids=show)
def test_the_pages_import_nothing_that_needs_torch(path: Path) -> None:
    used = {name.split(".")[0] for name in imports(path)}
    assert used.isdisjoint({"torch", "torchvision", "timm", "safetensors"})
    assert {part(name) for name in imports(path)}.isdisjoint({*TORCH, "__main__"})


def torch_free_modules() -> list[str]:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in engine() if owner(path) in TORCH_FREE]
    return [name.removesuffix(".__init__") for name in names]


def test_the_torch_free_half_never_loads_torch() -> None:
    modules = torch_free_modules()
    code = f"import sys, {', '.join(modules)}; print(sorted({{'torch', 'timm', 'streamlit'}} & set(sys.modules)))"
    done = run(code)
    assert done.stderr == ""
    assert done.stdout.strip() == "[]"


def test_the_command_line_parses_without_torch() -> None:
    done = run("import sys, lampq_engine.commands; print(sorted({'torch', 'timm', 'streamlit'} & set(sys.modules)))")
    assert done.stderr == ""
    assert done.stdout.strip() == "[]"


def test_everything_the_pages_import_at_once_loads_no_torch() -> None:
    """What the pages share is imported as Streamlit imports it: with `app/` on the path."""
    modules = [path.stem for path in pages() if path.parent.name == "app" and path.stem not in ("main", "__init__")]
    done = run(f"import sys, {', '.join(modules)}; print(sorted({{'torch', 'timm'}} & set(sys.modules)))", ROOT / "app")
    assert done.stdout.strip() == "[]", done.stderr[-2000:]


def test_the_check_of_imports_sees_what_it_should(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "lampq_engine" / "models" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "from ..data import a\nfrom . import b\nimport lampq_engine.pack as p\ndef f():\n    import torch\n"
    )
    found = set(imports(path))
    assert {"lampq_engine.data.a", "lampq_engine.models.b", "lampq_engine.pack", "torch"} <= found
    assert {part(name) for name in found} == {"data", "models", "pack", ""}
