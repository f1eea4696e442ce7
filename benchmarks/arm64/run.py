"""An arm64 device for everyone: an emulated Debian with its own SSH server is set up, checked and measured.

    sudo .venv/bin/python benchmarks/arm64/run.py bookworm --folder /var/tmp/paretopipe-arm64

Takes half an hour or more, a gigabyte of downloads and 3 GB of disk. The device is reached at 127.0.0.2, as two
devices of one host that share a home: both backends need the same PyTorch at both ends. Times mean nothing here,
sizes do. See docs/devices.md.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import yaml

HERE = Path(__file__).resolve().parent
ADDRESS, PORT = "127.0.0.2", 2222
LIMIT_S = 3600.0
SWEEP = {
    "model": "mobilenet_v2",
    "num_images": 4,
    "batch_size": 1,
    "partition_points": [8],
    "backend": ["socket", "rpc"],
    "in_flight": 1,
    "repeats": 1,
}


def new_key(path: Path) -> str:
    """Make a key pair; its public half."""
    if not path.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, timeout=60)
    return path.with_suffix(".pub").read_text()


def write_login(folder: Path, root: Path, cpu: str) -> Path:
    """Keys, known_hosts and the server's configuration; the home in which the user's side of it lies."""
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True, exist_ok=True, mode=0o700)
    public, host = new_key(home / ".ssh" / "id_ed25519"), new_key(root / "etc" / "ssh" / "paretopipe_key")
    (home / ".ssh" / "known_hosts").write_text(f"[{ADDRESS}]:{PORT} {host}")
    (root / "etc" / "ssh" / "paretopipe_authorized").write_text(public)
    (root / "etc" / "ssh" / "paretopipe_config").write_text(
        f"ListenAddress {ADDRESS}:{PORT}\nHostKey /etc/ssh/paretopipe_key\nPidFile none\nUsePAM no\nUseDNS no\n"
        "AuthorizedKeysFile /etc/ssh/paretopipe_authorized\nStrictModes no\nPasswordAuthentication no\n"
        f"MaxStartups 100\nMaxSessions 100\nSetEnv QEMU_CPU={cpu}\n"
    )
    return home


@contextlib.contextmanager
def device(root: Path, log: Path) -> Iterator[psutil.Process]:
    """The device, switched on: an SSH server and all below it, in namespaces that end with it."""
    inside = shlex.quote(str(root))
    script = f"""set -e
mount --rbind /dev {inside}/dev; mount -t proc proc {inside}/proc; mount -t tmpfs tmpfs {inside}/run
mkdir -m 755 {inside}/run/sshd
exec chroot {inside} /usr/sbin/sshd -D -e -f /etc/ssh/paretopipe_config"""
    words = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "sh", "-c", script]
    with log.open("ab") as said, subprocess.Popen(words, stderr=said, stdin=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 120
            while True:
                with contextlib.suppress(OSError), socket.create_connection((ADDRESS, PORT), timeout=30) as there:
                    if there.recv(4) == b"SSH-":
                        break
                if time.monotonic() > end or process.poll() is not None:
                    sys.exit(f"its SSH server did not start: {log}")
                time.sleep(0.2)
            yield psutil.Process(process.pid)
        finally:
            process.kill()


def megabytes_downloaded(log: Path) -> float:
    """The sum of what pip says to have downloaded."""
    units = {"kB": 1e-3, "MB": 1.0, "GB": 1e3}
    found = re.findall(r"Downloading \S+\.(?:whl|tar\.gz)\S* \(([\d.]+) ?([kMG]B)\)", log.read_text(errors="replace"))
    return sum(float(size) * units[unit] for size, unit in found)


def ours(words: list[str], home: Path) -> int:
    """Run one of our commands as a user whose home is `home`; its exit status."""
    shown = shlex.join(words)
    print(f"\n$ python -m {shown}", flush=True)
    start = time.monotonic()
    environment = {**os.environ, "HOME": str(home), "PARETOPIPE_CACHE": str(home / "cache")}
    environment.pop("SSH_AUTH_SOCK", None)
    done = subprocess.run([sys.executable, "-m", *words], cwd=HERE.parents[1], env=environment, check=False)
    print(f"[exit status {done.returncode} after {time.monotonic() - start:.0f} s]", flush=True)
    return done.returncode


def largest_worker(server: psutil.Process) -> float:
    """Megabytes that the largest worker of the device has resident now, the emulator's own included."""
    sizes = [0.0]
    for process in server.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "workers." in " ".join(process.cmdline()):
                sizes.append(process.memory_info().rss / 1e6)
    return max(sizes)


def sweep(folder: Path, name: str, home: Path, server: psutil.Process) -> tuple[int, float]:
    """The sweep's exit status, and the most megabytes that a worker had resident meanwhile."""
    shutil.rmtree(folder / "out" / name, ignore_errors=True)
    values = {**SWEEP, "name": name, "devices": str(folder / "devices.yaml"), "output_dir": str(folder / "out")}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(values))
    environment = {**os.environ, "HOME": str(home), "PARETOPIPE_CACHE": str(home / "cache")}
    words = [sys.executable, "-m", "pplib.sweep", str(folder / "sweep.yaml")]
    print(f"\n$ python -m {shlex.join(words[2:])}", flush=True)
    most, end = 0.0, time.monotonic() + LIMIT_S
    with subprocess.Popen(words, cwd=HERE.parents[1], env=environment) as process:
        while process.poll() is None:
            most = max(most, largest_worker(server))
            if time.monotonic() > end:
                process.terminate()
            time.sleep(0.5)
    return process.returncode, most


def main() -> int:
    """One device from nothing to a front; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=["bookworm", "trixie"], help="bookworm is Debian 12, trixie Debian 13")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp/paretopipe-arm64"))
    parser.add_argument("--cpu", default="cortex-a72", help="what qemu pretends: cortex-a53 (Pi 3), -a72 (4), -a76 (5)")
    options = parser.parse_args()
    folder = options.folder.resolve()
    subprocess.run(["bash", str(HERE / "root.sh"), options.suite, str(folder)], check=True)
    root = folder / f"root-{options.suite}"
    home = write_login(folder, root, options.cpu)
    one = {"host": ADDRESS, "ssh_port": PORT, "user": "pi", "interface": "lo"}
    devices = [{"name": "arm-1", **one}, {"name": "arm-2", **one, "data_host": "127.0.0.3"}]
    (folder / "devices.yaml").write_text(yaml.safe_dump({"ready_timeout_s": 600, "devices": devices}))
    with device(root, folder / f"sshd-{options.suite}.log") as server:
        failed = ours(["pplib.devices", "setup", str(folder / "devices.yaml")], home)
        failed = failed or ours(["pplib.devices", "check", str(folder / "devices.yaml")], home)
        status, resident = (1, 0.0) if failed else sweep(folder, options.suite, home, server)
    if failed:
        return 1
    own = root / "home" / "pi" / ".paretopipe"
    size = subprocess.run(["du", "-sm", str(own / "venv")], capture_output=True, text=True, check=False).stdout
    print(
        f"\n{options.suite}, {options.cpu}: {megabytes_downloaded(own / 'pip.log'):.0f} MB downloaded by pip, ", end=""
    )
    print(f"environment {size.split()[0] if size else '?'} MiB, largest worker {resident:.0f} MB resident")
    summary = folder / "out" / options.suite / "summary.csv"
    if summary.exists():
        with summary.open() as file:
            for row in csv.DictReader(file):
                print(f"{row['backend']}: {row['status']}, outputs off by {row['max_abs_err']} at most")
    return int(bool(failed or status))


if __name__ == "__main__":
    sys.exit(main())
