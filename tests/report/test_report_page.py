"""What is written: complete, reproducible, whole or not at all, and inert whatever a run folder says."""

from __future__ import annotations

import base64
import copy
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from run_folders import RunMaker, arm_trace, make_run_folder, write_json

import lamo.report
from lamo.errors import LamoError
from lamo.report import figure_overview, figures, terminal_table, write_report
from lamo.report.collect import read_runs
from lamo.report.groups import make_sections
from lamo.report.markup import Html, el, json_block
from lamo.report.page import pick_rollouts

EVIL = """<script>alert(1)</script><img src=x onerror=alert(2)>"' onload="x" ]]> </script>"""
EVIL += "$\\frac{ | `code` [red] \x1b[31m &amp;"
FILES = {"report.html", "report.md", "report.json", "curves.svg"}
VOID = {"meta", "br", "input"}


class Page(HTMLParser):
    """Elements of a page, which must close in the order in which they opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@dataclass(frozen=True)
class Written:
    """A report, and what it was made of."""

    runs: list[Path]
    out: Path
    numbers: dict[str, Any]

    @property
    def page(self) -> str:
        return (self.out / "report.html").read_text()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The report of two methods with three seeds each. Figures take their time: made once, and not to be changed."""
    folder = tmp_path_factory.mktemp("report")
    runs = [
        make_run_folder(folder / f"{preset}-{seed}", preset=preset, seed=seed, level=level, every=2_500)
        for preset, level in (("lamo", 30.0), ("dt", 20.0))
        for seed in range(3)
    ]
    out = folder / "deep" / "report"
    return Written(runs, out, write_report(runs, out))


@pytest.fixture
def bare(make_run: RunMaker) -> Path:
    """A run that has not been evaluated: it is reported in no time."""
    path = make_run("bare", preset="dt", finished=False)
    (path / "episodes.jsonl").unlink()
    return path


def check_page(text: str) -> Page:
    """A page that needs nothing from elsewhere, and runs nothing but its own script."""
    page = Page(text)
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "img", "image", "foreignobject"}, tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in {"src", "href", "xlink:href", "action", "data", "srcset"}:
                assert value is not None and value.startswith("#"), (tag, name, value)
            if name == "style":
                assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", value or "")), value
    style = text[text.index("<style>") : text.index("</style>")]
    assert "@import" not in style and "url(" not in style
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = {value for _, attributes in page.elements for value in re.findall(r"url\(#([^)]*)\)", str(attributes))}
    used |= {str(a["href"])[1:] for _, a in page.elements if "href" in a} | {
        str(a["xlink:href"])[1:] for _, a in page.elements if "xlink:href" in a
    }
    assert used <= set(ids)
    return page


def test_everything_is_written(written: Written) -> None:
    out, found, text = written.out, written.numbers, written.page
    assert {path.name for path in out.iterdir()} == FILES
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(found, allow_nan=False))
    ElementTree.fromstring((out / "curves.svg").read_bytes())

    page = check_page(text)
    assert "http" not in re.sub(r"http-equiv", "", text)  # not even a namespace
    assert len(page.all("canvas")) == 2
    assert "6 runs" in text and "3 seeds, 15 evaluation episodes" in text and "over seeds" in text
    assert "Settings that differ (2)" in text and "algorithm.adapt" in text and "a CPU" in text
    assert "31.20" in text and "33.90" in text and "400 k" in text
    traces = json.loads(re.search(r'id="rollouts">(.*?)</script>', text, re.S)[1])  # type: ignore[index]
    assert [len(trace["frames"]) for trace in traces] == [61, 61]

    markdown = (out / "report.md").read_text()
    assert "| lamo | 3 | **76** |" in markdown and "(curves.svg)" in markdown and "over seeds" in markdown
    table = terminal_table(found, 120)
    assert "lamo" in table and "76 ★" in table and "over seeds" in table and "\x1b" not in table


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_no_column_is_cut(written: Written, width: int) -> None:
    found = copy.deepcopy(written.numbers)
    methods = found["sections"][0]["methods"]
    methods.append({**methods[0], "targets": [], "best_target": None})
    for method, label in zip(methods, ("lamo (context 20)", "lamo (context 20, layers 12)", "dt"), strict=True):
        method["label"] = label
        for target in method["targets"]:
            for key in ("last_window", "best_checkpoint", "final"):
                target[key].update(estimate=37.3, low=26.9, high=46.2)
    table = terminal_table(found, width).split("The data itself")[0]
    assert max(map(len, table.splitlines())) <= width
    assert "final" in table and "evaluated" in table and "yet" in table
    targets = sum(len(method["targets"]) for method in methods)
    assert table.count("[26.9,") == table.count("46.2]") == table.count("37.3") == 3 * targets


def test_the_script_is_the_one_that_the_policy_names(written: Written) -> None:
    text = written.page
    (policy,) = (a["content"] or "" for a in Page(text).all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    script = text[text.rindex("<script>") + len("<script>") : text.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy and "default-src 'none'" in policy


def test_equal_runs_give_equal_bytes(written: Written, tmp_path: Path) -> None:
    write_report(written.runs, tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (written.out / name).read_bytes(), name


def test_a_strangers_run_is_inert(make_run: RunMaker, tmp_path: Path) -> None:
    paths = []
    for seed in range(2):
        path = make_run(
            f"<b>{seed}&", seed=seed, preset=EVIL, task=EVIL, every=5_000, config={EVIL: [EVIL], "note": EVIL}
        )
        provenance = json.loads((path / "provenance.json").read_text())
        write_json(path / "provenance.json", {**provenance, EVIL: EVIL, "command": EVIL})
        write_json(path / "rollout.json", {**arm_trace(seed), "env": EVIL, "view": EVIL, "kind": EVIL})
        with (path / "episodes.jsonl").open("a") as file:
            file.write(EVIL.replace("\n", ""))  # an unfinished last line
        paths.append(path)
    out = tmp_path / "out"
    found = write_report(paths, out)
    page = check_page((out / "report.html").read_text())
    assert len(page.all("script")) == 2 and not page.all("img") and not page.all("b") == page.all("b") == []
    assert "<script>alert(1)</script>" in "".join(page.text)  # shown as text
    for name in ("report.html", "report.md", "curves.svg"):
        assert "\x1b" not in (out / name).read_text()
    ElementTree.fromstring((out / "curves.svg").read_bytes())
    markdown = (out / "report.md").read_text()
    assert "<script" not in markdown and "<img" not in markdown and "\\`code\\`" in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {
        7,
        6,
    }  # six columns, and five in the table of models
    table = terminal_table(found, 400)
    assert "\x1b" not in table and "[red]" in table


def test_elements_escape_what_is_not_html() -> None:
    assert el("p", "<b>", Html("<i></i>"), None, class_='a"b') == '<p class="a&quot;b">&lt;b&gt;<i></i></p>'
    assert json_block({"a": "</script><!--"}) == '{"a":"\\u003c/script\\u003e\\u003c!--"}'
    assert json.loads(json_block({"a": "</script>&"})) == {"a": "</script>&"}


def test_runs_without_evaluation_score_or_rollout(bare: Path, make_run: RunMaker, tmp_path: Path) -> None:
    found = write_report([bare], tmp_path / "bare-report")
    assert {path.name for path in (tmp_path / "bare-report").iterdir()} == FILES - {"curves.svg"}
    text = (tmp_path / "bare-report" / "report.html").read_text()
    assert not check_page(text).all("script") and "script-src &#x27;none&#x27;" in text and "no evaluation yet" in text
    assert "not evaluated yet" in terminal_table(found)

    other = make_run("other", value=lambda s, t, e: (100.0 * e, None), targets=(None,), every=10_000)
    found = write_report([bare, other], tmp_path / "both")
    assert found["sections"][0]["metric"] == "return" and "over episodes" in terminal_table(found, 200)
    text = (tmp_path / "both" / "report.html").read_text()
    assert "over episodes" in text and "return, last window" in text
    check_page(text)


def test_rollouts_are_of_one_seed_and_not_of_the_best(make_run: RunMaker) -> None:
    paths = [
        make_run("l0", seed=0, finished=False),
        *(make_run(f"l{seed}", seed=seed, level=99 * seed) for seed in (1, 2)),
    ]
    paths += [make_run(f"d{seed}", preset="dt", seed=seed) for seed in (0, 1, 2)]
    (section,) = make_sections(read_runs(paths))
    assert [(label, run.seed) for label, run in pick_rollouts(section)] == [("lamo", 1), ("dt", 1)]


def test_nothing_is_left_behind(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LamoError, match="is missing"):
        write_report([bare, tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(LamoError, match="is a file"):
        write_report([bare], tmp_path / "file")
    with pytest.raises(LamoError, match="cannot be made"):
        write_report([bare], tmp_path / "file" / "out")
    with pytest.raises(LamoError, match="--seed -1 must be at least 0"):
        write_report([bare], tmp_path / "out", seed=-1)
    with pytest.raises(LamoError, match="--seed -1 must be at least 0"):
        figure_overview([bare], tmp_path / "out.svg", seed=-1)

    out = tmp_path / "out"
    out.mkdir()
    (out / "report.html").write_text("old")

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "chmod", full_disk)
    with pytest.raises(LamoError, match="No space left"):
        write_report([bare], out)
    assert [path.name for path in out.iterdir()] == ["report.html"] and (out / "report.html").read_text() == "old"


def test_overview_as_a_picture(written: Written, bare: Path, tmp_path: Path) -> None:
    found = figure_overview(written.runs, tmp_path / "a" / "curves.svg")
    assert found.read_bytes() == (written.out / "curves.svg").read_bytes()
    assert figure_overview(written.runs[:1], tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(LamoError, match=r"\.svg or a \.png"):
        figure_overview(written.runs, tmp_path / "curves.pdf")
    with pytest.raises(LamoError, match="no curve to draw"):
        figure_overview([bare], tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()


def test_every_colour_of_a_figure_is_a_variable_of_the_page(written: Written) -> None:
    text = written.page
    style = text[text.index("<style>") : text.index("</style>")]
    light, dark = style.split("prefers-color-scheme: dark")
    for variable in figures.variables().values():
        assert f"{variable}:" in light and f"{variable}:" in dark
    drawn = "".join(re.findall(r'<svg class="figure".*?</svg>', text, re.S))
    assert drawn and not re.findall(r"#[0-9a-f]{6}\b(?!-)", re.sub(r'(id="|url\(|href=")[^")]*', "", drawn))


def test_more_methods_than_colours() -> None:
    styles = [figures.style_of(i) for i in range(16)]
    assert len({str(style) for style in styles}) == 16
    assert len({str((style[0], style[2])) for style in styles}) == 16


def test_no_torch(written: Written, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'gymnasium'): sys.modules[name] = None\n"
        "from lamo.report import write_report\n"
        "write_report([sys.argv[1]], sys.argv[2])\n"
    )
    source = str(Path(lamo.report.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": source}
    subprocess.run(
        [sys.executable, "-c", code, str(written.runs[0]), str(tmp_path / "out")],
        check=True,
        env=environment,
        timeout=120,
    )
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.slow
def test_in_a_browser(written: Written) -> None:
    """The script runs under the page's own policy, and says at which step each policy is."""
    browser = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if browser is None:
        pytest.skip("no chromium here")
    flags = [
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-sync",
    ]
    flags.append("disable-component-update")
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser,
            *(f"--{flag}" for flag in flags),
            f"--user-data-dir={profile}",
            "--dump-dom",
            (written.out / "report.html").as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.count("of 60, return so far") == 2


def test_what_is_over_tasks_and_what_is_left_out(make_run: RunMaker, tmp_path: Path) -> None:
    paths = []
    for task, preset, seed in itertools.product("ab", ("lamo", "dt", "bc"), range(3)):
        if (task, preset) != ("b", "bc"):
            value = {"lamo": 9.0, "dt": 5.0, "bc": 1.0}[preset] + seed
            settings: dict[str, Any] = {"steps": 1_000, "every": 1_000, "episodes": 1, "rollout": False}
            settings |= {"task": task, "preset": preset, "seed": seed, "value": lambda s, t, e, v=value: v}
            paths.append(make_run(f"{task}{preset}{seed}", **settings))
    write_report(paths, tmp_path / "out")
    page, text = ((tmp_path / "out" / f"report.{end}").read_text() for end in ("html", "md"))
    for said in (page[page.index("Over 2 tasks") :], text[text.index("Over 2 tasks") :]):
        assert "bc: left out, for it has no scores of 3 seeds on b, 10 % of the data." in said
        assert "above every run of the second, on each task" in said and "in 0.5 % of cases" in said
    check_page(page)


def test_targets_of_each_run_are_drawn(make_run: RunMaker, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 1_000, "every": 500, "episodes": 1, "config": {"targets": None}}
    runs = [make_run(f"r{i}", seed=i, targets=(3.0 + i, 8.0 + i), **settings) for i in range(3)]
    found = write_report(runs, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "not evaluated yet" not in terminal_table(found, 120) and "own #2" in terminal_table(found, 120)
    assert "Target own #1" in page and "its return targets differ by seed" in page
    check_page(page)


def test_held_out_error_is_drawn(make_run: RunMaker, tmp_path: Path) -> None:
    run = make_run("a", steps=1_000, every=500)
    write_report([run], tmp_path / "without")
    assert "Held-out action error" not in (tmp_path / "without" / "report.html").read_text()
    assert "held-out action error" not in (tmp_path / "without" / "report.md").read_text()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 500, "holdout_action_error": 0.4}\n{"step": 1000, "holdout_action_error": 0.25}\n')
    write_report([run], tmp_path / "with")
    assert "<b>Held-out action error</b>" in (tmp_path / "with" / "report.html").read_text()
    assert "| held-out action error |" in (tmp_path / "with" / "report.md").read_text()
    assert "| 0.25 |" in (tmp_path / "with" / "report.md").read_text()
