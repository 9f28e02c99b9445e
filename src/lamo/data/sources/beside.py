"""Results are written beside their place and renamed into it: whoever looks finds all of one, or nothing."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lamo.errors import LamoError


def name_beside(path: Path) -> Path:
    """A hidden name that nobody else has: process numbers are not one machine's on a shared disk, or in containers."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A name beside `path`, whose folder is made; the file there is renamed into `path` at the end, unless something
    failed: then nothing is left.

    Raises `LamoError` where it cannot be written.
    """
    beside = name_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        os.replace(beside, path)
    except OSError as error:
        raise LamoError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # renamed by now, unless something failed
            beside.unlink()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` that is renamed into it at the end, unless something failed: then nothing is left.

    Raises `LamoError` where it cannot be written.
    """
    beside = name_beside(path)
    try:
        beside.mkdir(parents=True)
        yield beside
        os.rename(beside, path)
    except OSError as error:
        raise LamoError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
