"""How a program ended, in words: an exit status, or the signal that ended it and what that means."""

from __future__ import annotations

import re
import signal

_MEANING = {
    signal.SIGKILL: "most likely the kernel, because memory ran out; `dmesg` on the device tells",
    signal.SIGILL: "an instruction that its processor has not: a build for a newer one, such as torch 2.10 on a "
    "Raspberry Pi 3 or 4, where 2.9.1 runs",
    signal.SIGSEGV: "the program, or a library of it, is broken, or does not fit this system",
    signal.SIGBUS: "a file that it uses was cut, or the disk is full or failing",
}
_ENDING = re.compile(r"(?:signal|exit status|exit code) (\d+)\b")


def ending(status: int) -> str:
    """The exit status of a command as a shell tells it, in words: 128 + n stands for signal n.

    >>> ending(3), ending(128 + 15)
    ('exit status 3', 'exit status 143, SIGTERM')
    """
    number = status - 128
    if number not in {one.value for one in signal.Signals}:
        return f"exit status {status}"
    return f"exit status {status}, {_told(number)}"


def told(said: str) -> str:
    """`said`, which begins with how a program ended, and what the signal means where it was one.

    >>> told("exit status 1"), told("signal 15")
    ('exit status 1', 'signal 15')
    """
    found = _ENDING.match(said)
    if found is None:
        return said
    number = int(found[1]) - (0 if said.startswith("signal") else 128)
    return f"{said} ({_told(number)})" if number in set(_MEANING) else said


def died(status: int) -> bool:
    """Whether a status says that a signal that nobody asked for ended the program."""
    return status - 128 in set(_MEANING)


def _told(number: int) -> str:
    one = signal.Signals(number)
    return f"{one.name}: {_MEANING[one]}" if one in _MEANING else one.name
