"""Datasets larger than memory, block by block: from any source, through a change of each block, into any format.

    source --> blocks of whole episodes --> change --> writer --> the result, beside its place, then renamed

A change is a function Episodes -> Episodes (None: nothing of the block is left). What it does to `metadata` lands in
the result's. `stream` opens a source, `Stream.map` puts changes into its way, `lamo.data.convert.write` writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lamo.data.episodes import Episodes
from lamo.data.sources import BLOCKS, is_adapted, located, read, read_blocks
from lamo.data.sources.options import ReadOptions
from lamo.data.sources.parts import take_parts

BLOCK_BYTES = 1 << 25
"""Bytes of a block's steps, unless one episode has more."""
Change = Callable[[Episodes], Episodes | None]


@dataclass(frozen=True)
class Stream:
    """Episodes in blocks. Iterating opens the source anew, so it can be done several times."""

    source: str
    """What the user called it."""
    metadata: dict[str, Any]
    """That of the first block, before any change."""
    open: Callable[[], Iterator[Episodes]]
    """Blocks of whole episodes with their numbers in the source, each at most about `BLOCK_BYTES` large."""
    held: bool = True
    """Whether the reader of this format holds the whole source in memory meanwhile."""
    steps: int | None = None
    """How many there are, where that is known before they are read."""
    changed: bool = False
    """Whether a change lies in its way, so that it is no longer what the source holds."""
    whole: Episodes | None = None
    """All of them, where nothing has to be read for that or everything is in memory: a store, or what is held."""

    def __iter__(self) -> Iterator[Episodes]:
        return self.open()

    def map(self, change: Change) -> Stream:
        """The stream of what `change` makes of each block; `metadata` is still the source's."""

        def opened() -> Iterator[Episodes]:
            for block in self.open():
                changed = change(block)
                if changed is not None:
                    yield changed

        return replace(self, open=opened, steps=None, changed=True, whole=None)


def stream(source: str | Path, options: ReadOptions | None = None, size: int = BLOCK_BYTES) -> Stream:
    """Open what `load_episodes` reads, in blocks of about `size` bytes.

    Raises `LamoError` as `load_episodes` does, now or on the way.
    """
    options = options or ReadOptions()
    with located(source, options) as (kind, path, name):
        if kind == "store" and (keys := options.obs_keys) is not None:  # block by block: all would not fit
            found = of_episodes(read(kind, path, name, replace(options, obs_keys=None)), size)
            parts = found.map(lambda block: take_parts(block, keys))
            return replace(parts, metadata=next(iter(parts)).metadata, steps=found.steps)
        first = next(_blocks(source, options, size)) if kind in BLOCKS else None
        if first is None or is_adapted(first):
            return of_episodes(read(kind, path, name, options), size)
    held = any(each.startswith("time=") and each != "time=none" for each in options.columns or ())  # to be sorted
    return Stream(name, first.metadata, lambda: _blocks(source, options, size), held)


def _blocks(source: str | Path, options: ReadOptions, size: int) -> Iterator[Episodes]:
    with located(source, options) as (kind, path, name):
        for block in read_blocks(kind, path, name, options, size):
            yield from block.blocks(size) if block.steps * block.step_bytes > 2 * size else (block,)


def of_episodes(episodes: Episodes, size: int = BLOCK_BYTES) -> Stream:
    """A stream of episodes that are there already."""
    return Stream(
        episodes.source,
        episodes.metadata,
        lambda: episodes.blocks(size),
        held=not episodes.mapped,
        steps=episodes.steps,
        whole=episodes,
    )
