"""Long work cut into parts: each is whole or absent, a stopped run goes on, a failed part does not sink the rest.

    state/plan.json      options and inputs of the run; another plan is refused
    state/parts/KEY/     what a part wrote, with `part.json`, its report
    state/failed.json    the parts that failed in the last run, with the reason

A part writes into a fresh folder that is synced and renamed when it is complete, so running a part twice does no
harm. Parts run in this process, in several, or on a Dask cluster whose workers see the same file system.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geotreeclip.data.aside import sync_directory, write_atomically
from geotreeclip.errors import ConfigError, DataError, GeotreeclipError

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

__all__ = ["Done", "Failure", "Partition", "PartitionRun", "Work", "add_run_arguments", "run_partitions"]

Work = Callable[[Any, Path], dict[str, Any]]
"""Does one part: takes its payload and an empty folder to write into, and returns a report that JSON can hold."""

_REPORT = "part.json"
_WAITS = (0.5, 2.0, 8.0, 30.0)  # seconds before the second, third ... attempt: networks need a moment


@dataclass(frozen=True, slots=True)
class Partition:
    """A part of the work.

    Attributes:
        key: Its name, usable as that of a folder, unlike any other.
        payload: What the work needs to know; small, and picklable where processes are to share the work.
    """

    key: str
    payload: Any


@dataclass(frozen=True, slots=True)
class Done:
    """A part that is complete: its folder, its report, and whether an earlier run made it."""

    key: str
    folder: Path
    report: dict[str, Any]
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """A part that failed at every attempt, with the last reason; `detail` is the traceback of an unexpected error."""

    key: str
    reason: str
    attempts: int
    detail: str = ""


@dataclass(slots=True)
class PartitionRun:
    """What became of the parts, in the order in which they were given."""

    done: list[Done] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)

    def raise_if_empty(self) -> None:
        """Raise where every part failed.

        Raises:
            DataError: With the first reason.
        """
        if self.failed and not self.done:
            first = self.failed[0]
            raise DataError(f"all {len(self.failed)} parts failed, first {first.key}: {first.reason}{first.detail}")

    def summary(self) -> str:
        """What was done, in a line or two."""
        resumed = sum(part.resumed for part in self.done)
        lines = [f"{len(self.done)} parts complete" + (f", {resumed} of them by an earlier run" if resumed else "")]
        lines += [
            f"FAILED after {part.attempts} attempts: {part.key}: {part.reason}{part.detail}" for part in self.failed
        ]
        return "\n".join(lines)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that say where the parts run: --workers, --scheduler, --retries."""
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes on this machine (%(default)s)")
    parser.add_argument(
        "--scheduler", default="", metavar="ADDRESS",
        help="run on a Dask cluster, for example tcp://host:8786; its workers must see the same files",
    )  # fmt: skip
    parser.add_argument(
        "--retries", type=int, default=2, metavar="N", help="further attempts at a part that fails (%(default)s)"
    )


def run_partitions(
    partitions: Sequence[Partition],
    work: Work,
    state: Path,
    *,
    plan: Mapping[str, Any],
    workers: int = 1,
    scheduler: str = "",
    retries: int = 2,
    label: str = "",
    progress: bool = True,
) -> PartitionRun:
    """Do the parts that are not yet done.

    Args:
        partitions: The parts.
        work: A function of a module, so that other processes find it.
        state: Folder of the run.
        plan: What the parts depend on, such as options and identities of the inputs; as JSON.
        workers: Processes on this machine; 1 works in this one.
        scheduler: Address of a Dask scheduler instead.
        retries: Further attempts at a part that fails.
        label: Words before the progress bar.
        progress: Whether to draw one.

    Returns:
        The parts that are complete, those of earlier runs included, and the failed ones.

    Raises:
        ConfigError: An impossible option, or one that the work refused: no other part would fare better.
        DataError: The state is of another plan, in use by another run, or cannot be written.
    """
    if workers < 1 or retries < 0:
        raise ConfigError(f"{workers} workers and {retries} retries; give at least one worker and no negative retries")
    if repeated := len(partitions) - len({part.key for part in partitions}):
        raise ValueError(f"{repeated} partitions share a key")
    with _locked(state):
        _check_plan(state, plan)
        for left_over in (state / "parts").glob(".partial-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        run = _Run(work, state / "parts", retries)
        done = {part.key: part for entry in partitions if (part := run.finished(entry)) is not None}
        failed: dict[str, Failure] = {}
        with _bar(label, progress, len(partitions), len(done)) as advance:
            left = [part for part in partitions if part.key not in done]
            for outcome in _outcomes(run, left, workers, scheduler):
                if isinstance(outcome, Failure):
                    failed[outcome.key] = outcome
                else:
                    done[outcome.key] = outcome
                advance()
        order = [part.key for part in partitions]
        result = PartitionRun(
            [done[key] for key in order if key in done], [failed[key] for key in order if key in failed]
        )
        reasons = {part.key: part.reason + part.detail for part in result.failed}
        write_atomically(state / "failed.json", lambda path: path.write_text(json.dumps(reasons, indent=1)))
    return result


@dataclass(frozen=True, slots=True)
class _Run:
    """What every process needs to do a part."""

    work: Work
    parts: Path
    retries: int

    def finished(self, part: Partition) -> Done | None:
        folder = self.parts / part.key
        try:
            report = json.loads((folder / _REPORT).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(f"{folder / _REPORT}: cannot be read ({error}); delete {folder} to do it again") from error
        return Done(part.key, folder, report, resumed=True)

    def attempt(self, part: Partition) -> Done | Failure:
        """Do a part, with further attempts where it fails."""
        for number in range(self.retries + 1):
            if number:
                time.sleep(_WAITS[min(number, len(_WAITS)) - 1])
            try:
                return self._once(part)
            except ConfigError:  # every other part would refuse the option too
                raise
            except (GeotreeclipError, OSError) as error:
                failure = Failure(part.key, str(error) or type(error).__name__, number + 1)
            except Exception as error:  # noqa: BLE001  # a defect met by one part is reported whole and spares the rest
                reason = f"{type(error).__name__}: {error}"
                failure = Failure(part.key, reason, number + 1, "\n" + traceback.format_exc())
        return failure

    def _once(self, part: Partition) -> Done:
        folder = self.parts / f".partial-{part.key}-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        try:
            report = self.work(part.payload, folder)
            (folder / _REPORT).write_text(json.dumps(report), encoding="utf-8")
            _sync(folder)
            target = self.parts / part.key
            shutil.rmtree(target, ignore_errors=True)  # only ever without its report: what a hand has left there
            folder.rename(target)
            sync_directory(self.parts)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return Done(part.key, target, report)


def _outcomes(run: _Run, parts: Sequence[Partition], workers: int, scheduler: str) -> Iterator[Done | Failure]:
    """Outcomes as they come."""
    if scheduler:
        return _on_dask(run, parts, scheduler)
    if workers > 1 and len(parts) > 1:
        return _in_processes(run, parts, min(workers, len(parts)))
    return map(run.attempt, parts)


def _in_processes(run: _Run, parts: Sequence[Partition], workers: int) -> Iterator[Done | Failure]:
    """On processes of this machine."""
    from concurrent.futures import FIRST_COMPLETED, Future, wait
    from concurrent.futures.process import BrokenProcessPool

    waiting = list(reversed(parts))
    while waiting:
        running: dict[Future[Done | Failure], Partition] = {}
        pool = _pool(workers)
        try:
            while waiting or running:
                while waiting and len(running) < 2 * workers:
                    part = waiting.pop()
                    running[pool.submit(run.attempt, part)] = part
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    outcome = future.result()
                    del running[future]
                    yield outcome
        except BrokenProcessPool:
            # A process was killed, nobody knows at which of these parts: each gets a process of its own.
            for part in running.values():
                yield _alone(run, part)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _alone(run: _Run, part: Partition) -> Done | Failure:
    """One part in a process of its own, started again where it is killed, for memory or otherwise."""
    from concurrent.futures.process import BrokenProcessPool

    for _ in range(run.retries + 1):
        with _pool(1) as pool:
            try:
                return pool.submit(run.attempt, part).result()
            except BrokenProcessPool:
                continue
    return Failure(part.key, "its process was killed; is there too little memory?", run.retries + 1)


def _pool(workers: int) -> ProcessPoolExecutor:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    # spawn: a fork would copy locks that the threads of other libraries hold
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))


def _on_dask(run: _Run, parts: Sequence[Partition], scheduler: str) -> Iterator[Done | Failure]:
    """On the workers of a Dask cluster, a bounded number of parts in flight."""
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise ConfigError("--scheduler needs Dask: pip install 'geotreeclip[prep]'") from error
    try:
        client = Client(scheduler, timeout="20s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--scheduler {scheduler}: no Dask scheduler answers there ({error})") from error
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise ConfigError(f"--scheduler {scheduler}: the cluster has no workers; start some first")
        waiting = iter(parts)

        def submit(part: Partition) -> Any:
            # A part is idempotent and retried by itself; Dask repeats it where a worker is lost.
            return client.submit(run.attempt, part, key=f"{part.key}-{uuid.uuid4().hex[:8]}", pure=False)

        ahead = [submit(part) for _, part in zip(range(2 * threads), waiting, strict=False)]
        running = as_completed(ahead, loop=client.loop)
        for future in running:
            yield _gathered(future)
            future.release()
            part = next(waiting, None)
            if part is not None:
                running.add(submit(part))


def _gathered(future: Any) -> Done | Failure:
    from distributed import CancelledError, KilledWorker

    try:
        outcome: Done | Failure = future.result()
    except (KilledWorker, CancelledError) as error:
        return Failure(str(future.key).rsplit("-", 1)[0], f"its Dask worker was lost: {error}", 1)
    return outcome


def _check_plan(state: Path, plan: Mapping[str, Any]) -> None:
    path = state / "plan.json"
    wanted = json.loads(json.dumps(plan))
    if not path.exists():
        write_atomically(path, lambda target: target.write_text(json.dumps(wanted, indent=1), encoding="utf-8"))
        return
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); delete {state} to start again") from error
    differing = sorted(key for key in {*begun, *wanted} if begun.get(key) != wanted.get(key))
    if differing:
        shown = "; ".join(f"{key} was {_short(begun.get(key))}, now {_short(wanted.get(key))}" for key in differing)
        raise DataError(
            f"{state}: was begun with other options or inputs ({shown}); give the same command to go on, or delete it "
            "to start again"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    """Keeps a second run out of the folder while this one works; the lock ends with the process."""
    import fcntl

    try:
        (state / "parts").mkdir(parents=True, exist_ok=True)
        stream = (state / ".lock").open("w")
    except OSError as error:
        raise DataError(f"{state}: cannot be written: {error.strerror}") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"{state}: another run is at work in it; wait for it, or stop it") from error
        yield


@contextmanager
def _bar(label: str, progress: bool, total: int, done: int) -> Iterator[Callable[[], object]]:
    if not progress:
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=total, initial=done, desc=label or None, unit=" parts", disable=None) as bar:
        yield bar.update


def _sync(folder: Path) -> None:
    """Makes the files of a part last before its name says that it is complete."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    sync_directory(folder)
