"""The page about a dataset, and `lamo data inspect --html`."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from lamo.cli import main
from lamo.data import Episodes
from lamo.data.inspect import inspect
from lamo.data.portrait import portrait
from lamo.data.sources.d4rl import write_d4rl
from lamo.errors import LamoError
from lamo.report.dataset import render, write_dataset_page


def made(lengths, *, width=3, actions=2, seed=0, metadata=None) -> Episodes:
    rng = np.random.default_rng(seed)
    steps, count = int(sum(lengths)), len(lengths)
    return Episodes(
        observations=rng.normal(size=(steps, width)).astype(np.float32),
        actions=rng.uniform(-1, 1, (steps, actions)).astype(np.float32)
        if actions > 0
        else rng.integers(4, size=(steps, -actions) if actions else steps),  # below 0: so many choices at once
        rewards=rng.normal(size=steps).astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        terminated=np.arange(count) % 2 == 1,
        truncated=np.arange(count) % 2 == 0,
        ids=np.arange(count),
        metadata={"source": "made", "format": None, "env": None, **(metadata or {})},
    )


def page(episodes: Episodes) -> str:
    return render(inspect(episodes), portrait(episodes))


class Reader(HTMLParser):
    """Tags that are opened and not closed, ids, and what is loaded or linked."""

    VOID = ("meta", "br", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open += [] if tag in self.VOID else [tag]
        for key, value in attrs:
            assert not key.startswith("on"), (tag, key)
            if key == "id":
                self.ids.append(str(value))
            if key in ("src", "href", "xlink:href", "data", "action", "srcset"):
                self.links.append(str(value))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert len(set(reader.ids)) == len(reader.ids)
    assert all(link.startswith("#") for link in reader.links)
    assert "script" not in reader.tags and "img" not in reader.tags and "iframe" not in reader.tags
    assert "script-src &#x27;none&#x27;" in text and "default-src &#x27;none&#x27;" in text
    assert not re.search(r"url\((?!#)", text) and "@import" not in text
    return reader


@pytest.mark.parametrize("actions", [0, 2, 6, -2])
def test_it_is_whole_and_loads_nothing(actions):
    text = page(made([4, 6, 5, 5, 20], actions=actions))
    check(text)
    for word in ("Returns", "Lengths", "Rewards", "Best episode", "Median episode", "Worst episode", "return-to-go"):
        assert word.lower() in text.lower()
    assert text.count('class="density"') == {0: 0, 2: 1, 6: 0, -2: 1}[actions]
    assert "$\\mathdefault" not in text


def test_equal_data_give_equal_bytes():
    assert page(made([4])) == page(made([4]))


def test_names_from_files_are_text():
    evil = "<script>alert(1)</script>\"'&\x00\u202e"
    text = page(
        made(
            [5, 7],
            metadata={
                "source": evil,
                "env": evil,
                "format": evil,
                "notes": [evil],
                "attributes": {evil: evil, "deep": {"er": [evil, None, 1]}},
                "history": [{"command": evil}],
                "observation_keys": [evil],
                "observation_sizes": [3],
            },
        )
    )
    check(text)
    assert "<script" not in text and "&lt;script&gt;" in text and "\u202e" not in text and "\x00" not in text


def test_many_dimensions_and_attributes_stay_small():
    about = {f"key {i}": "x" * 5000 for i in range(500)}
    text = page(made([1500, 30], width=400, actions=300, metadata={"attributes": about, "notes": ["n" * 9999] * 99}))
    check(text)
    assert len(text) < 1_500_000
    assert "The first 256 of 400 are shown." in text and "and 420 more" in text and "and 59 more" in text


def test_numbers_of_any_size():
    episodes = made([3, 4])
    episodes.observations[:, 0] = 3e38 * np.array([1, -1, 1, -1, 1, -1, 1])
    episodes.rewards[:] = 1e30
    check(page(episodes))


def test_the_command_line(tmp_path, capsys):
    data, out = tmp_path / "log.hdf5", tmp_path / "new" / "page.html"
    write_d4rl(made([4, 6, 5, 5, 20], metadata={"action_low": [-1.0, -1.0], "action_high": [1.0, 1.0]}), data)
    assert main(["data", "inspect", str(data), "--html", str(out)]) == 0
    said = capsys.readouterr()
    assert "episodes     5" in said.out and said.err.strip() == str(out)
    text = out.read_text()
    check(text)
    assert 'class="bound"' in text
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("log.hdf5", "let the name end in .html"),
        ("page", "let the name end in .html"),
        ("folder.html", "is a folder"),
        ("log.hdf5/page.html", "no folder that can be written to"),
    ],
)
def test_a_place_that_cannot_be(tmp_path, capsys, name, words):
    data = tmp_path / "log.hdf5"
    write_d4rl(made([4, 6]), data)
    (tmp_path / "folder.html").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(["data", "inspect", str(data), "--html", str(tmp_path / name)]) == 2
    out, error = capsys.readouterr()
    assert not out and words in error and error.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_that_may_not_be_written_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lamo.report.os.replace", full)
    with pytest.raises(LamoError, match="No space left"):
        write_dataset_page(inspect(made([4])), portrait(made([4])), tmp_path / "a.html")
    assert list(tmp_path.iterdir()) == []
