"""`lamo …`: finds the verb, runs it, and turns errors into one line and an exit code.

Exit codes: 0 done; 2 bad input or bad usage (one line on standard error); 130 and 143 stopped by Ctrl-C and SIGTERM.
Nothing heavy is imported here: `lamo --help` answers at once, and each verb imports what it needs.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from lamo.errors import LamoError
from lamo.signals import terminable

# verb: (module in lamo.commands : function, what it does)
VERBS: dict[str, tuple[str, str]] = {
    "train": ("training:train_verb", "train a policy on logged episodes, or go on with a run (--resume)"),
    "evaluate": ("results:evaluate_verb", "play episodes with the policy of a run"),
    "report": ("results:report_verb", "compare runs: table, Markdown and a page with curves and a moving picture"),
    "select": ("selection:select_verb", "rank the policies of runs from logged data alone, without a simulator"),
    "data inspect": ("data:inspect_verb", "what is in a dataset, and what looks wrong with it"),
    "data convert": ("recutting:convert_verb", "write a dataset in another format, such as a store to train from"),
    "data merge": ("recutting:merge_verb", "write several datasets as one"),
    "data split": ("recutting:split_verb", "write a dataset in several files: train and holdout, or parts"),
    "data subsample": ("recutting:subsample_verb", "write a random share of a dataset's episodes"),
    "data relabel": (
        "relabel:relabel_verb",
        "write a dataset with other rewards: sparse, delayed, scaled, hindsight",
    ),
    "data score": ("relabel:score_verb", "the returns of a dataset as the task's normalised scores"),
    "data collect": ("data:collect_verb", "record episodes of a behaviour policy in an environment"),
    "lm pretrain": ("lm:pretrain_verb", "train a small language model on text files"),
    "lm evaluate": ("lm:evaluate_verb", "bits per byte and perplexity of a language model on a text"),
    "tasks": ("results:tasks_verb", "list the tasks that --task knows"),
    "demo": (
        "results:demo_verb",
        "train LaMo, its control and DT on the embedded task, and report (at most 10 min)",
    ),
}


def help_text() -> str:
    """What `lamo --help` prints."""
    verbs = "\n".join(f"  lamo {name:<16}{what}" for name, (_, what) in VERBS.items())
    return f"""lamo: control policies from small logs of behaviour, starting from a pretrained language model

usage: lamo VERB [OPTIONS]

{verbs}

`lamo VERB --help` says every option, its default and its unit. `lamo --version` says the version.
A first run: lamo train --preset lamo --task reacher2d-medium --ratio 0.1 --out runs/a
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # GNU OpenMP's threads spin while they wait for each other. On a busy machine that made a step ten times slower;
    # never to spin makes it 1.7 times slower on an idle one. A short spin costs neither. It is read when torch loads.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        with terminable():
            code = _run(argv)
        sys.stdout.flush()
        return code
    except LamoError as error:
        print(f"lamo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(f"lamo: {str(stopped).strip() or 'stopped'}", file=sys.stderr)
        return getattr(stopped, "exit_code", 130)
    except BrokenPipeError:  # `lamo … | head`: whoever read has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(help_text(), end="", file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] == "--version":
        from lamo import __version__

        print(f"lamo {__version__}")
        return 0
    two = " ".join(argv[:2])
    name = two if two in VERBS else argv[0]
    group = [verb for verb in VERBS if verb.startswith(f"{argv[0]} ")]
    if group and name not in VERBS:
        text = "\n".join(f"  lamo {verb:<16}{VERBS[verb][1]}" for verb in group)
        if argv[1:] and argv[1] in ("-h", "--help"):
            print(f"usage: lamo {argv[0]} VERB [OPTIONS]\n\n{text}")
            return 0
        raise LamoError(f"{two!r} is not complete; use one of: {', '.join(f'lamo {verb}' for verb in group)}")
    if name not in VERBS:
        import difflib

        near = difflib.get_close_matches(argv[0], VERBS, n=1)
        hint = f"did you mean `lamo {near[0]}`?" if near else "`lamo --help` lists the verbs"
        raise LamoError(f"unknown verb {argv[0]!r}; {hint}")
    module, function = VERBS[name][0].split(":")
    try:
        return getattr(importlib.import_module(f"lamo.commands.{module}"), function)(argv[len(name.split()) :])
    except SystemExit as left:  # tyro: 0 after --help, 2 after a line it cannot parse
        return left.code if isinstance(left.code, int) else 1
