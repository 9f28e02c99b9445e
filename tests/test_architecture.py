"""The house rules that a reader would otherwise have to check by eye. docs/architecture.md says them in words."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
MAX_LINES = 400

# Imports point down only: a module may import what has a lower number, and its own room. "lamo.x" holds for lamo.x and
# for what lies in it, unless a longer name says otherwise; "lamo.x.*" for what lies in it alone.
# A name in a string (`ALGORITHMS`, `lamo.__getattr__`) is no import: that is how low rooms know of high ones.
RANKS = {
    "lamo.errors": 0,
    "lamo.assets": 0,
    "lamo.workers": 1,
    "lamo.tasks": 1,
    "lamo.algorithms.settings": 1,
    "lamo.algorithms.baseline_settings": 2,
    "lamo.envs": 2,
    "lamo.algorithms": 3,  # the tables ALGORITHMS and PRESETS, which config reads
    "lamo.config": 4,
    "lamo.data": 5,
    "lamo.models": 6,
    "lamo.algorithms.*": 7,
    "lamo.policy": 8,
    "lamo.evaluate": 9,
    "lamo.replay": 9,
    "lamo.runs": 9,
    "lamo.prepare": 9,
    "lamo.provenance": 9,
    "lamo.progress": 9,
    "lamo.selection": 10,
    "lamo.collecting": 11,
    "lamo.signals": 9,
    "lamo.member": 11,
    "lamo.evaluate_run": 12,
    "lamo.train": 12,
    "lamo.language": 12,
    "lamo.pretrain": 13,
    "lamo.sweep": 13,
    "lamo.report": 13,
    "lamo.demo": 14,
    "lamo.commands": 15,
    "lamo.cli": 16,
    "lamo": 17,
    "lamo.__main__": 17,
}
HEAVY = {"torch", "transformers", "peft", "accelerate", "torchrl", "stable_baselines3"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted(SRC.glob("lamo/**/*.py"))}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imports(name: str, *, only_at_import: bool = False) -> Iterator[tuple[str, int]]:
    """(full module name, line) of what a module imports; blocks under TYPE_CHECKING are left out.

    With `only_at_import`, what a function imports when it is called is left out as well.
    """
    stack: list[ast.AST] = [tree(name)]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            stack += node.orelse
            continue
        if only_at_import and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        stack += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: imports are absolute in this project"
            for (
                alias
            ) in node.names:  # `from lamo.data import text` imports a module, `from lamo.data import Episodes` a name
                whole = f"{node.module}.{alias.name}"
                if whole == "lamo.__version__":  # a constant of the package, which is there before any of its modules
                    continue
                yield (whole if whole in MODULES else str(node.module)), node.lineno


def room(name: str) -> str:
    """The key of RANKS that holds for a module; empty where none does."""
    if name in RANKS:
        return name
    parts = name.split(".")
    for n in range(len(parts) - 1, 1, -1):
        prefix = ".".join(parts[:n])
        for key in (f"{prefix}.*", prefix):
            if key in RANKS:
                return key
    return ""


def test_every_module_has_a_place() -> None:
    assert [name for name in MODULES if not room(name)] == []


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name: str) -> None:
    here = room(name)
    for other, line in imports(name):
        if other.split(".")[0] != "lamo":
            continue
        assert other in MODULES, f"{name}:{line} imports {other}, which does not exist"
        there = room(other)
        assert there == here or RANKS[there] < RANKS[here], f"{name}:{line} imports {other}, which stands higher"


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("lamo.report")])
def test_report_reads_run_folders_only(name: str) -> None:
    for other, line in imports(name):
        own = other.startswith("lamo.report") or other == "lamo.errors" or not other.startswith("lamo")
        assert own and other.split(".")[0] not in HEAVY, f"{name}:{line} imports {other}"


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) == "lamo.data"])
def test_data_is_numpy_only(name: str) -> None:
    for other, line in imports(name):
        assert other.split(".")[0] not in HEAVY, f"{name}:{line} imports {other}"


LIGHT = ("lamo", "lamo.cli", "lamo.config", "lamo.tasks", "lamo.data", "lamo.algorithms", "lamo.runs", "lamo.report")


@pytest.mark.parametrize("name", [name for name in LIGHT if name in MODULES])
def test_light_modules_stay_light(name: str) -> None:
    """Importing these loads neither torch nor transformers, on whatever way: `--help` and `report` answer at once."""
    code = f"import sys, {name}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


@pytest.mark.parametrize("name", MODULES)
def test_nothing_untrusted_is_executed(name: str) -> None:
    """No pickle is loaded but by the restricted unpickler, nor a file that may hold one, and no text becomes code."""
    for node in ast.walk(tree(name)):
        if not isinstance(node, ast.Call):
            continue
        called, where = ast.unparse(node.func), f"{name}:{node.lineno}"
        options = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert called not in ("eval", "exec", "compile", "__import__"), f"{where}: {called}"
        pickles = r"(pickle|cloudpickle|dill|joblib|marshal|shelve)\.(loads?|open|Unpickler)"
        assert not re.fullmatch(pickles, called), f"{where}: {called}"
        if called == "torch.load":
            assert options.get("weights_only") == "True", f"{where}: torch.load needs weights_only=True"
        assert options.get("allow_pickle", "False") == "False", f"{where}: allow_pickle"
        assert options.get("trust_remote_code", "False") == "False", f"{where}: trust_remote_code"
        assert options.get("shell", "False") == "False", f"{where}: shell"
        assert called != "os.system", where


@pytest.mark.parametrize("name", MODULES)
def test_randomness_is_a_passed_generator(name: str) -> None:
    """numpy's and Python's global generators are shared state that no seed of ours reaches."""
    allowed = {"default_rng", "Generator", "SeedSequence", "PCG64", "SFC64"}
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("np.random", "numpy.random"):
            assert node.attr in allowed, f"{name}:{node.lineno}: {ast.unparse(node)}"
    assert "random" not in {other for other, _ in imports(name)}, f"{name} imports Python's random"


@pytest.mark.parametrize("name", MODULES)
def test_a_file_is_one_idea(name: str) -> None:
    lines = len(MODULES[name].read_text(encoding="utf-8").splitlines())
    assert lines < MAX_LINES, f"{MODULES[name].relative_to(ROOT)} has {lines} lines; divide it by ideas"


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_documented(name: str) -> None:
    assert ast.get_docstring(tree(name)), f"{name} has no docstring"
    for node in tree(name).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name}:{node.lineno}: {node.name} has no docstring"


def test_no_path_of_one_machine() -> None:
    """A path of the machine that something was written on means nothing on the next."""
    pattern = re.compile(r"(?<![\w.<{/])/(work|home|root|Users)/\w")
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "Makefile", ROOT / "pyproject.toml"]
    files = [*MODULES.values(), *documents]
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []
