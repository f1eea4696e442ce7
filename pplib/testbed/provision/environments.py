"""The virtual environment that `setup` makes on a device: whole, or made anew."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

from pplib.testbed.provision.needs import Needs, lock_of
from pplib.testbed.provision.torch_builds import Build, System, unfit
from pplib.testbed.shipping.our_code import FOLDER, VENV
from pplib.testbed.ssh.command import CommandError, shell_path
from pplib.testbed.ssh.device import SshDevice
from pplib.testbed.ssh.endings import died, ending

BUSY, NO_ROOM = 75, 76

# Everything of it, what pip unpacks included, lies in our folder: /tmp is in memory on a Pi with little of it.
_INSTALL = r"""set -e
folder=$1 venv=$2 room_kb=$3 locked=$4 keep=$5; shift 5  # what is left are the marks
cd -- "$folder"
missing=
for mark in "$@"; do grep -qsx -- "$mark" "$venv/installed" || missing=yes; done
[ -x "$venv/bin/python" ] && [ -z "$missing" ] && exit 0
free_kb=$(df -Pk . | tail -n 1 | tr -s ' ' | cut -d ' ' -f 4)
[ "$keep" ] || held_kb=$(du -sk "$venv" 2> /dev/null | cut -f 1)
[ $((free_kb + ${held_kb:-0})) -ge "$room_kb" ] || { echo "$((free_kb + ${held_kb:-0}))" >&2; exit NO_ROOM; }
trap 'rm -rf tmp' EXIT
trap 'exit 1' HUP INT TERM
rm -rf -- tmp pip.log
[ "$keep" ] || rm -rf -- "$venv"
mkdir tmp
export TMPDIR="$PWD/tmp"
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
has=$(cat "$venv/installed" 2> /dev/null) || has=
rm -f -- "$venv/installed"
"$venv/bin/python" -m pip install --disable-pip-version-check --no-input --no-cache-dir --quiet --log pip.log \
  -r requirements.txt -c constraints.txt $locked
printf '%s\n' $has "$@" | sort -u > "$venv/installed"
""".replace("NO_ROOM", str(NO_ROOM))


def install(
    machine: SshDevice,
    system: System,
    build: Build,
    needs: Needs,
    keep: bool,
    say: Callable[[str], None],
    limit_s: float,
) -> None:
    """Make the environment, with what belongs into it; one `setup` at a time.

    Args:
        machine: a device without `python` in the device file.
        system: what it is.
        build: of PyTorch, if it needs one.
        needs: what is installed.
        keep: what is in the environment, and is as it is to be.
        say: is called with a line of text before it takes its time.
        limit_s: how long it may take.

    Raises:
        TransportError: the device cannot be reached.
        CommandError: it cannot have one, or pip failed; in one line, with what to do.
    """
    if reason := unfit(system, build):
        raise CommandError(f"{machine.name}: {reason}")
    locks = [lock_of(path, its) for path, its in needs.files(build)]
    locked = None not in locks
    how = "as locked, with hashes" if locked else "the newest of the rest: no lock file has this"
    if build.room_bytes:
        chosen = ", ".join(build.constraints) or "the newest torch"
        how = f"with {chosen} ({build.why}), {how}: PyTorch is large, minutes the first time"
    say(f"{machine.name}: installing {needs.names} {how}")
    sources = [path for path in locks if path] if locked else [path for path, _ in needs.files(build)]
    machine.put(_merged([path.read_text() for path in sources]).encode(), f"{FOLDER}/requirements.txt")
    machine.put("".join(f"{line}\n" for line in build.constraints).encode(), f"{FOLDER}/constraints.txt")
    room_bytes = build.room_bytes + needs.room_bytes
    words = f"{shell_path(FOLDER)} {shell_path(VENV)} {room_bytes / 1024:.0f} "
    words += shlex.join(["--require-hashes --no-deps" if locked else "", "keep" if keep else "", *needs.marks(build)])
    script = f'exec flock -n -E {BUSY} {shell_path(f"{FOLDER}/lock")} sh -c "$1" sh {words}'
    done = machine.run(["sh", "-c", script, "sh", _INSTALL], timeout_s=limit_s)
    if done.returncode == BUSY:
        raise CommandError(f"{machine.name}: another `setup` is installing there: wait for it")
    if done.returncode == NO_ROOM:
        raise CommandError(
            f"{machine.name}: {int(done.stderr) / 1e6:.1f} GB are free in the home of its user, expected "
            f"{room_bytes / 1e9:.1f} GB for {', '.join(needs.runtimes)}: make room, or use a larger card"
        )
    if done.returncode:
        said = ending(done.returncode) if died(done.returncode) else reason_of(done.stderr or done.stdout)
        raise CommandError(
            f"{machine.name}: the environment could not be made: {said} (all of it: {FOLDER}/pip.log there)"
        )


def _merged(texts: Sequence[str]) -> str:
    """Files of requirements as one, what stands in several once."""
    lines = "\n".join(texts).replace("\\\n", "\0").splitlines()  # a requirement and its hashes are one line
    return "".join(f"{line}\n" for line in dict.fromkeys(lines)).replace("\0", "\\\n")


def reason_of(said: str) -> str:
    """The line of what pip said that tells why it failed.

    >>> reason_of("WARNING: slow\\nERROR: [Errno 28] No space left on device\\n\\n  hint: more\\n")
    '[Errno 28] No space left on device'
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return ([*lines[-1:], *errors] or ["it said nothing"])[-1][:300]
