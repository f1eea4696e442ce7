"""Source files on a device, under their content hash: they travel once, are checked there, and the newest few stay."""

from __future__ import annotations

import gzip
import hashlib
import io
import secrets
import tarfile
from collections.abc import Mapping

from pplib import limits
from pplib.testbed.ssh.command import shell_path
from pplib.testbed.ssh.device import SshDevice

KEPT_VERSIONS = 5  # a worker may still run one that is not the newest

# Prints the content hash of the present folder, as `Bundle.hash` computes it.
HASH_HERE = (
    "find . -type f -name '*.py' -printf '%P\\n' | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum | cut -c1-64"
)
_UNPACK = (
    r"""set -e; umask 022
cd "$1"
trap 'rm -rf -- "new.$$" "$3"' EXIT
exec 9< .
flock -w LIMIT 9 || { echo "another one unpacks in $PWD" >&2; exit 1; }
[ "$(cd "$2" 2> /dev/null && HASH_HERE)" = "$2" ] && exit 0
mkdir "new.$$"
tar -xzf "$3" -C "new.$$"
got=$(cd "new.$$" && HASH_HERE)
[ "$got" = "$2" ] || { echo "the code arrived changed: $got, expected $2" >&2; exit 1; }
if [ -e "$2" ]; then mv -T "$2" "new.$$/old"; fi
mv -T "new.$$" "$2"
rm -rf "$2/old"
ls -1dt -- */ | grep -E '^[0-9a-f]{64}/$' | tail -n +MOST | xargs -r rm -rf --
""".replace("HASH_HERE", HASH_HERE)
    .replace("MOST", str(KEPT_VERSIONS + 1))
    .replace("LIMIT", str(round(limits.UNPACK_S / 2)))
)


class Bundle:
    """Python files that belong together.

    Args:
        place: the folder on the device that holds the versions of this bundle; may begin with `~/`.
        files: their contents, by path below a folder from which Python can import them.
    """

    def __init__(self, place: str, files: Mapping[str, bytes]) -> None:
        self.place = place
        self.files = dict(sorted(files.items(), key=lambda item: item[0].encode()))
        lines = [f"{hashlib.sha256(content).hexdigest()}  {path}\n" for path, content in self.files.items()]
        self.hash = hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def folder(self) -> str:
        """Where it lies on a device that has it; Python imports from there."""
        return f"{self.place}/{self.hash}"

    def archive(self) -> bytes:
        """The files as a gzipped tar, the same bytes for the same content."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for path, content in self.files.items():
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(content), 0o644
                archive.addfile(entry, io.BytesIO(content))
        return gzip.compress(packed.getvalue(), mtime=0)

    def put_on(self, machine: SshDevice) -> int:
        """Bring it to a device; the bytes that travelled. Several may bring the same at the same time.

        Raises:
            TransportError: it does not arrive, or arrives changed.
        """
        packed = f"{secrets.token_hex(8)}.tar.gz"
        size = machine.put(self.archive(), f"{self.place}/{packed}")
        script = f"set -- {shell_path(self.place)} {self.hash} {packed}\n{_UNPACK}"
        machine.run(["sh", "-c", script], timeout_s=limits.UNPACK_S, check=True)
        return size

    def put_where_missing(self, machine: SshDevice) -> int:
        """As `put_on`, where the device does not hold it whole already: then 0.

        Raises:
            TransportError: the device cannot be asked, or it does not arrive.
        """
        script = f"cd {shell_path(self.folder)} 2>/dev/null || exit 0; touch .\n{HASH_HERE}"
        there = machine.run(["sh", "-c", script], check=True).stdout.strip()
        return 0 if there == self.hash else self.put_on(machine)
