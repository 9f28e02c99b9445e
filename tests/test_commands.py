"""A command line that cannot be parsed is one line, as all other bad input."""

import pytest

from lamo.cli import main


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["train", "--ratio", "abc"], "--ratio: could not convert string to float"),
        (["train", "--rati", "1"], "did you mean --ratio?"),
        (["train", "--steps"], "Missing value for argument '--steps'"),
        (["train", "--initialise", "x"], "Expected one of ('pretrained', 'random', 'scratch')"),
        (["train", "more"], "Unrecognized options: more"),
        (["evaluate"], "Missing"),
    ],
)
def test_one_line(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    out, error = capsys.readouterr()
    assert not out
    assert words in error
    assert error.startswith("lamo: ") and error.count("\n") == 1 and "help` lists the options" in error
    assert not set("╭│─╯") & set(error)
