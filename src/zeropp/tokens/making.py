"""Token files made of sources by several processes, a part at a time; what is made stays made.

    tokens.json        what they are made of; at the end also how many tokens there are
    00000.ds, ...      a part each, which is there when it is whole

Killed at any moment and called again with the same job, it goes on and ends with equal files.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fcntl import LOCK_EX, LOCK_NB, flock
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from zeropp.ir.files import explained, new_folder, write_text
from zeropp.tokens.documents import BadDocumentError, Document, Place, Text, documents, placed
from zeropp.tokens.files import MANIFEST, Encoded, read_file, read_manifest, writing
from zeropp.tokens.sources import Part, Source, part_size, parts_of
from zeropp.tokens.tokenizer import BYTES, Tokenizer, fingerprint, load_tokenizer

_AT_ONCE = 2**20  # bytes of text that are encoded together
_THREADS = 4  # of a process that encodes: more would wait for what Python does with the tokens
_TELL_S = 10.0  # between lines, where there is no terminal
_LOCK = ".lock"
_LEFT = ".zeropp-*"  # as zeropp.ir.files names what is not whole

Placed = tuple[Place, Document]
_Made = tuple[Document, Encoded]


@dataclass(frozen=True)
class Job:
    """What tokens are made of, and by what; `inputs` and `output` are the options that say so."""

    sources: tuple[Source, ...]
    tokenizer: str
    field: str | None = None
    inputs: str = "files"
    output: str = "output"

    def described(self) -> dict[str, Any]:
        """What makes it differ from another job."""
        listed = json.dumps(self.sources)
        return {
            "sources": len(self.sources),
            "sources_sha256": hashlib.sha256(listed.encode()).hexdigest(),
            "tokenizer": self.tokenizer,
            "tokenizer_sha256": fingerprint(self.tokenizer),
            "field": self.field,
        }


def make_tokens(job: Job, folder: Path) -> None:
    """Make what is missing in `folder`, which is then a folder of tokens.

    Raises:
        ValueError: a document that cannot be used, whereupon the folder is gone; a folder that
            holds something else; or one that cannot be written.
    """
    wanted = job.described()
    if "tokens" in _refuse_others(job, folder, wanted):
        return
    load_tokenizer(job.tokenizer)
    with ExitStack() as held:
        with new_folder(job.output, folder):
            held.enter_context(_alone(job, folder))
            if not _refuse_others(job, folder, wanted):
                _write_manifest(job, folder, wanted)
        try:
            paths = _make_parts(job, folder)
        except BadDocumentError:
            shutil.rmtree(folder)
            raise
        files = [read_file(job.output, path) for path in paths]
        made = {
            "tokens": sum(len(file.tokens) for file in files),
            "documents": sum(len(file.ends) for file in files),
            "largest": max((int(file.tokens.max(initial=0)) for file in files), default=0),
        }
        _write_manifest(job, folder, wanted | made)


def _refuse_others(job: Job, folder: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """What is known of a folder that this job has begun; ValueError for any other."""
    there = read_manifest(job.output, folder)
    if not there and folder.is_dir() and not all(map(_is_own, folder.iterdir())):
        raise ValueError(f"{job.output}: {folder} is not empty; name another folder")
    others = [name for name in wanted if there and there.get(name) != wanted[name]]
    if others:
        raise ValueError(
            f"{job.output}: {folder} was made by another command (not the same "
            f"{others[0].removesuffix('_sha256')}); name another folder, or remove it"
        )
    return there


def _is_own(file: Path) -> bool:
    """Whether it may be there before anything is made: the lock, or what a killed process left."""
    return file.name == _LOCK or file.match(_LEFT)


def _write_manifest(job: Job, folder: Path, told: dict[str, Any]) -> None:
    write_text(job.output, folder / MANIFEST, json.dumps(told, indent=2) + "\n")


@contextmanager
def _alone(job: Job, folder: Path) -> Iterator[None]:
    """No other process makes parts in the folder; the lock of one that is killed ends with it."""
    with explained(job.output, folder):
        file = (folder / _LOCK).open("w")
    with file:
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            print(f"{folder}: another process makes it; waiting for that", file=sys.stderr)
            flock(file, LOCK_EX)
        yield


def _make_parts(job: Job, folder: Path) -> list[Path]:
    """Make those that are not there; the files of all."""
    parts = parts_of(job.sources)
    paths = [folder / f"{number:05d}.ds" for number in range(len(parts))]
    missing = [pair for pair in zip(parts, paths, strict=True) if not pair[1].exists()]
    total, rest = (sum(map(part_size, some)) for some in (parts, (p for p, _ in missing)))
    with _progress(f"tokens of {job.tokenizer}", total, total - rest) as advance:
        try:
            _sweep(folder)
            for part in _made(replace(job, sources=()), missing):
                advance(part_size(part))
        finally:
            _sweep(folder)
    return paths


@contextmanager
def _progress(what: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, lines now and then elsewhere; gives what is told what more is made."""
    console, told = Console(stderr=True), time.monotonic()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(what, total=total, completed=done)

        def advance(made: int) -> None:
            nonlocal done, told
            done += made
            progress.advance(bar, made)
            if not console.is_terminal and time.monotonic() - told > _TELL_S:
                told = time.monotonic()
                print(f"{what}: {done / total:.0%}", file=sys.stderr, flush=True)

        yield advance


def _sweep(folder: Path) -> None:
    """Remove what processes have left that were killed over it."""
    for left in folder.glob(_LEFT):
        left.unlink(missing_ok=True)


def _made(job: Job, missing: Sequence[tuple[Part, Path]]) -> Iterator[Part]:
    """Parts, as they are made: by this process where the library's threads use all cores."""
    workers = min(len(os.sched_getaffinity(0)) // _THREADS, len(missing))
    if workers < 2 or job.tokenizer == BYTES:  # which are read faster than processes start
        for part, path in missing:
            _make(job, part, path)
            yield part
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_begin_worker) as pool:
        try:
            with _deaf():
                futures = {pool.submit(_make, job, *pair): pair[0] for pair in missing}
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that begin inside never hear of Ctrl-C, which is for the one that began them."""
    resource_tracker.ensure_running()  # which would let signals in again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _begin_worker() -> None:
    """A process for some cores, which ends with the one that asked for it."""
    os.environ["RAYON_NUM_THREADS"] = str(_THREADS)  # which the library's threads go by
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _make(job: Job, part: Part, path: Path) -> None:
    tokenizer = load_tokenizer(job.tokenizer)
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 2**16 else "<u4")
    found = documents(job.inputs, part, job.field)
    with writing(job.output, path, dtype, job.tokenizer) as writer:
        for document, encoded in _encoded(tokenizer, job.inputs, found):
            writer.add(encoded, not isinstance(document, Text) or document.ends)


def _encoded(tokenizer: Tokenizer, what: str, found: Iterator[Placed]) -> Iterator[_Made]:
    """Documents with their tokens; some are encoded while those before are written."""
    with ThreadPoolExecutor(1) as ahead:
        before: Future[list[_Made]] | None = None
        while group := list(_of_size(found)):
            after = ahead.submit(_group, tokenizer, what, group)
            yield from before.result() if before else ()
            before = after
        yield from before.result() if before else ()


def _of_size(found: Iterator[Placed]) -> Iterator[Placed]:
    """As many as are about `_AT_ONCE` bytes of text, or one of another kind."""
    size = 0
    for place, document in found:
        yield place, document
        size += len(document.text) if isinstance(document, Text) else _AT_ONCE
        if size >= _AT_ONCE:
            return


def _group(tokenizer: Tokenizer, what: str, group: Sequence[Placed]) -> list[_Made]:
    made = [document for _, document in group]
    try:
        texts = iter(tokenizer.encode_texts([text for text in made if isinstance(text, Text)]))
    except ValueError:  # of one of them
        texts = iter(())
    tokens = []
    for place, document in group:
        with placed(what, place):
            ready = next(texts, None) if isinstance(document, Text) else None
            tokens.append(ready or tokenizer.encode(document))
    return list(zip(made, tokens, strict=True))
