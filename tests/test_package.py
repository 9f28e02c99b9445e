"""The package as others get it: its version, its metadata, and a wheel that carries its assets and works alone."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "src" / "lamo" / "assets"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from this tree, without isolation and hence without a download."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheel's content and nothing else of this project."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    here = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src" / "lamo").rglob("*") if path.is_file()}
    here = {name for name in here if "__pycache__" not in name}
    with zipfile.ZipFile(wheel) as archive:
        there = {name for name in archive.namelist() if name.startswith("lamo/")}
    assert there == {name.replace(os.sep, "/") for name in here}


def test_the_assets_are_within_their_budgets() -> None:
    """What every installation downloads: the language model at most 16 MiB, the datasets at most 6 and 5 MiB."""
    model = ASSETS / "lm-tiny"
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {
        path.name for path in model.iterdir()
    }
    assert sum(path.stat().st_size for path in model.rglob("*") if path.is_file()) <= 16 * 2**20
    assert (ASSETS / "reacher2d-medium.hdf5").stat().st_size <= 6 * 2**20
    assert (ASSETS / "kitchen-complete.hdf5").stat().st_size <= 5 * 2**20


def test_no_asset_holds_a_pickle() -> None:
    suffixes = {path.suffix for path in ASSETS.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert suffixes <= {".hdf5", ".safetensors", ".json", ".md", ".py", ".txt"}


def test_the_wheel_works_alone(installed: Path, tmp_path: Path) -> None:
    """From another folder, with nothing of this tree on the path: the version is right and the assets open."""
    code = (
        "import lamo\n"
        "from importlib import metadata\n"
        "from lamo.models.pretrained import load_language_model\n"
        "print(lamo.__file__, metadata.version('lamo'), len(lamo.load_episodes('reacher2d-medium')) >= 1000)\n"
        "load_language_model('tiny')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    file, version, enough = result.stdout.split()
    assert Path(file).is_relative_to(installed)
    assert version == metadata.version("lamo")
    assert enough == "True"


def test_one_version() -> None:
    """pyproject.toml, the installed package, `lamo.__version__` and the newest entry of the changelog agree."""
    import lamo

    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    entry = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert declared and entry
    assert lamo.__version__ == metadata.version("lamo") == declared[1] == entry[1]


def test_the_command_is_installed() -> None:
    (script,) = metadata.entry_points(group="console_scripts", name="lamo")
    assert script.value == "lamo.cli:main"


def test_help_answers_within_a_second(tmp_path: Path) -> None:
    """`lamo --help` imports nothing heavy; the limit is generous because test machines are busy."""
    code = "import sys, lamo.cli; print(sorted({'torch', 'transformers', 'gymnasium'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    result = subprocess.run([sys.executable, "-m", "lamo", "--help"], capture_output=True, text=True, timeout=10)
    assert result.returncode == 0
    for verb in ("train", "evaluate", "report", "data", "lm", "tasks", "demo"):
        assert verb in result.stdout


REQUIRED = {"atari", "kitchen", "baselines", "tracking", "scale", "dev"}


def test_extras_by_use() -> None:
    assert set(metadata.metadata("lamo").get_all("Provides-Extra") or []) >= REQUIRED


OPTIONAL = {
    "datasets",
    "pyarrow",
    "huggingface_hub",
    "sklearn",
}  # imported where the user's data need it; the error says how to install it


def test_whatever_is_imported_is_declared() -> None:
    """A module that comes only because something else needs it today is gone tomorrow."""
    declared = {re.split(r"[\[<>=!; ]", line)[0].lower().replace("-", "_") for line in metadata.requires("lamo") or []}
    known = declared | OPTIONAL | sys.stdlib_module_names | {"lamo"}
    for path in (ROOT / "src" / "lamo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in known, f"{path.relative_to(ROOT)}:{node.lineno} imports {name}"
