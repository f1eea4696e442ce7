"""What a sweep is doing now: told by the process that measures, shown in its notebook and by the command."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
from IPython import get_ipython
from IPython.display import DisplayHandle

from pplib import limits
from pplib.files.own_folder import own_folder
from pplib.records import write_atomic

VARIABLE = "PARETOPIPE_PROGRESS"  # of the environment: the file that tells the command above what is being done


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What one configuration is at: `done` of `total` trials, of which `failed` failed."""

    doing: str
    done: int = 0
    total: int = 0
    failed: int = 0
    repeat: int = -1


class Told:
    """Tells what is being done: in a notebook one line that changes, elsewhere a line per repeat.

    The command above, if there is one, reads it from the file that `VARIABLE` names.
    """

    def __init__(self, shown: bool = True) -> None:
        self._shown, self._begun = shown, ("", -1)
        self._handle: DisplayHandle | None = None

    def __call__(self, state: State) -> None:
        """Say it."""
        if path := os.environ.get(VARIABLE):
            write_atomic(Path(path), msgspec.json.encode(state), durable=False)  # between trials: it is not waited for
        if not self._shown:
            return
        told = {"text/plain": line(state)}
        if get_ipython() is None:
            if self._begun != begun(state):
                self._begun = begun(state)
                sys.stdout.write(f"{line(state)}\n")
        elif self._handle is None:
            self._handle = DisplayHandle()  # type: ignore[no-untyped-call]
            self._handle.display(told, raw=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(told, raw=True)  # type: ignore[no-untyped-call]


def begun(state: State) -> tuple[str, int]:
    """What has begun: a stage of the work, or a repeat; single cuts are no news on paper.

    >>> begun(State(doing="measuring P7, repeat 2 of 3", repeat=1))
    ('measuring', 1)
    """
    return ("measuring" if state.repeat >= 0 else state.doing, state.repeat)


def line(state: State) -> str:
    """A state in words.

    >>> line(State(doing="measuring P7, repeat 2 of 3", done=27, total=60, failed=1))
    'measuring P7, repeat 2 of 3; 27 of 60 trials, 1 failed'
    """
    trials = f"; {state.done} of {state.total} trials" if state.total else ""
    return state.doing + trials + (f", {state.failed} failed" if state.failed else "")


class Eta:
    """How long a grid will still take, from what its set-ups and its trials have taken so far."""

    def __init__(self, todo: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        self._todo, self._clock = todo, clock
        self._setups: dict[str, float] = {}
        self._begun = self._first = clock()
        self._measured_s, self._measured, self._present, self._done = 0.0, 0, "", 0

    def begin(self, configuration: str) -> None:
        """This configuration is set up from now on."""
        self._begun, self._present, self._done = self._clock(), configuration, 0

    def at(self, done: int) -> None:
        """So many of its trials are done."""
        now = self._clock()
        if done == 0:
            self._setups[self._present] = now - self._begun
        elif done > self._done:
            self._measured += done - self._done
            self._measured_s += now - self._first
            self._done = done
        self._first = now

    def remaining_s(self) -> float | None:
        """Seconds, or None while nothing is known of a trial's length, or of how many there will be."""
        if not self._measured:
            return None
        names = list(self._todo)
        later = names[names.index(self._present) + 1 :] if self._present in names else []
        if any(math.isinf(self._todo.get(name, 0)) for name in (self._present, *later)):
            return None
        setup_s = sum(self._setups.values()) / max(1, len(self._setups))
        trials = self._todo.get(self._present, 0) - self._done + sum(self._todo[name] for name in later)
        return max(0, trials) * self._measured_s / self._measured + len(later) * setup_s


class Board:
    """The command's line: configuration i of n, what it does, how long it will take."""

    def __init__(self, todo: Mapping[str, float], file: Path) -> None:
        self._todo, self._file, self._eta = todo, file, Eta(todo)
        self._names, self._present, self._state = list(todo), "", State(doing="")
        self._failures, self._said, self._lock = 0, ("", "", -1), threading.Lock()
        self._live = sys.stderr.isatty()

    def begin(self, configuration: str) -> None:
        """A configuration's turn comes."""
        with self._lock:
            self._file.unlink(missing_ok=True)
            self._present, self._state = configuration, State(doing="starting")
            self._eta.begin(configuration)
        self.show()

    def say(self, doing: str) -> None:
        """What is done between configurations."""
        with self._lock:
            self._file.unlink(missing_ok=True)
            self._present, self._state = "", State(doing=doing)
        self.show()

    def failed(self, configuration: str, why: str) -> None:
        """A configuration has failed; the others go on."""
        with self._lock:
            self._failures += 1
        self._write(f"{configuration} failed: {why.splitlines()[0] if why else ''}", ends=True)

    def look(self) -> None:
        """Read what the notebook tells."""
        with self._lock, contextlib.suppress(OSError, msgspec.DecodeError):  # not told yet, or no longer
            self._state = msgspec.json.decode(self._file.read_bytes(), type=State)
            if self._state.total and self._present:
                self._eta.at(self._state.done)
        self.show()

    def show(self) -> None:
        """Show it: on a terminal in place, else a line whenever a stage or a repeat begins."""
        state = self._state
        where = (
            f"[{self._names.index(self._present) + 1}/{len(self._names)}] {self._present}: " if self._present else ""
        )
        left = self._eta.remaining_s() if where else None
        about = f"; about {_duration(left)} left" if left is not None else ""
        failures = f"; {self._failures} configuration(s) failed" if self._failures else ""
        said = (self._present, *begun(state))
        if self._live or said != self._said:
            self._said = said
            self._write(where + line(state) + failures + about, ends=not self._live)

    def _write(self, text: str, ends: bool) -> None:
        start = "\r\x1b[2K" if self._live else ""
        sys.stderr.write(f"{start}{text}" + ("\n" if ends else ""))
        sys.stderr.flush()


@contextlib.contextmanager
def board(todo: Mapping[str, float]) -> Iterator[Board]:
    """A line on stderr that says what a grid is doing, until the context ends.

    Args:
        todo: how many trials each configuration has to do, in order; infinite where that is not known.
    """
    with own_folder("p-") as folder:
        file, done = folder / "progress.json", threading.Event()
        shown = Board(todo, file)

        def watch() -> None:
            while not done.wait(limits.PROGRESS_POLL_S):
                shown.look()

        os.environ[VARIABLE] = str(file)
        thread = threading.Thread(target=watch, name="progress", daemon=True)
        thread.start()
        try:
            yield shown
        finally:
            del os.environ[VARIABLE]
            done.set()
            thread.join(5)
            if sys.stderr.isatty():
                sys.stderr.write("\n")


def _duration(seconds: float) -> str:
    """Rounded as one would say it.

    >>> _duration(42), _duration(130), _duration(7500)
    ('40 s', '2 min', '2 h 5 min')
    """
    if seconds < 90:
        return f"{max(5, round(seconds / 5) * 5)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
