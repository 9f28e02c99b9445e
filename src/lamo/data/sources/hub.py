"""Minari datasets by id: from the local store, or downloaded."""

from __future__ import annotations

import logging
import os
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path

from lamo.errors import LamoError

_ID = re.compile(r"(?:[-\w]+/)*[-\w]+-v\d+")
_SECONDS = 5.0  # to reach the hub at all; its client would try for half a minute


def is_minari_id(text: str) -> bool:
    """Whether `text` has the form of an id: `mujoco/hopper/medium-v0`."""
    return _ID.fullmatch(text) is not None


def local_store() -> Path:
    """Where Minari keeps its datasets on this machine."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def minari_folder(name: str) -> Path:
    """The folder of the dataset with this id, which is downloaded if it is not in the local store
    (`MINARI_DATASETS_PATH`, else `~/.minari/datasets`).

    Raises `LamoError` when it is not there and cannot be downloaded; within seconds, where there is no network.
    """
    root = local_store()
    folder = root / name
    if not (folder / "data").is_dir():
        try:
            import minari  # here: it takes a second to import and only downloads need it

            print(f"lamo: downloading Minari dataset {name} to {root}", file=sys.stderr, flush=True)
            with redirect_stdout(sys.stderr):  # minari speaks on standard output, which is for results
                logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each retry would be a line
                _reach_hub()
                minari.download_dataset(name)
        except ImportError as error:
            raise LamoError(
                f"Minari dataset {name} is not in {root}; `pip install 'minari[hdf5,hf]'` to download"
            ) from error
        except Exception as error:  # whatever network, hub or minari raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise LamoError(
                f"Minari dataset {name} is neither in {root} nor could it be downloaded ({reason}); "
                "check the id and the network, or give a folder or a file"
            ) from error
    return folder


def _reach_hub() -> None:
    """One request to the hub, whose answer does not matter; raises what the network raises.

    It goes through the hub's own client, hence its proxies, endpoint and offline mode.
    """
    if not os.environ.get("MINARI_REMOTE", "hf://").startswith("hf://"):
        return
    from huggingface_hub import constants, get_session

    get_session().head(constants.ENDPOINT, timeout=_SECONDS)
