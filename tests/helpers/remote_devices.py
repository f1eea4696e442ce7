"""Remote devices for the tests: real OpenSSH servers, each in a network and with a home of its own.

The tests reach them as users reach theirs: through ~/.ssh/config, ~/.ssh/known_hosts and a key; a
ProxyCommand takes the way into the network, beside the link between the devices.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from pplib.devices import load_testbed
from pplib.links import UNSHAPED
from pplib.testbed.emulation.namespaces import namespaces, supported

HERE = Path(__file__).resolve().parent
SSHD = Path("/usr/sbin/sshd")
PORT = 2222
LIMIT_S = 30.0


def missing():
    """Why there can be no remote devices here, or None."""
    lacking = [tool for tool in ("ssh", "ssh-keygen") if shutil.which(tool) is None]
    lacking += [] if SSHD.exists() else [str(SSHD)]
    if lacking:
        return f"no {', '.join(lacking)}: install openssh-server and openssh-client"
    return supported()


def skip_where_missing():
    if reason := missing():
        pytest.skip(f"no remote devices here: {reason}")


def new_key(path, kind="ed25519"):
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "test", "-f", str(path)], check=True, timeout=LIMIT_S
    )
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


class RemoteDevice:
    """One device: its server, its home, and its switch."""

    def __init__(self, net, index, folder, authorized_keys):
        self.net, self.index, self.name = net, index, f"device-{index}"
        self.address, self.port = net.addresses[index], PORT
        self.home = folder / f"home-{index}"
        self.log = folder / f"sshd-{index}.log"
        self.home.mkdir()
        self._host_key = folder / f"host-key-{index}"
        self.host_key = new_key(self._host_key)
        self.known_as = f"[{self.address}]:{self.port}"
        path = [str(self.home / "bin"), str(Path(sys.base_prefix) / "bin"), "/usr/bin", "/bin"]
        self.config = folder / f"sshd-{index}.config"
        self.config.write_text(
            f"""ListenAddress {self.address}:{self.port}
HostKey {self._host_key}
AuthorizedKeysFile {authorized_keys} {self.home}/.ssh/authorized_keys
PidFile none
StrictModes no
UsePAM no
UseDNS no
PrintMotd no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding yes
AllowStreamLocalForwarding yes
MaxStartups 100
MaxSessions 100
Subsystem sftp internal-sftp
SetEnv HOME={self.home} PATH={":".join(path)}
"""
        )
        self._process = None

    def __enter__(self):
        words = [sys.executable, str(HERE / "device.py"), str(self.config), self.address, str(self.port), str(self.log)]
        if os.geteuid() != 0:  # root of its namespace, as the keeper is, could log nobody in
            words = ["unshare", "--user", f"--map-user={os.geteuid()}", f"--map-group={os.getegid()}", *words]
        self._process = self.net.popen(self.index, words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.switch("on")
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(LIMIT_S)
        self._process.stdout.close()

    def switch(self, word):
        """`on`, `off` (as pulling the plug), `freeze` or `thaw`; returns when it is done."""
        self._process.stdin.write(word.encode() + b"\n")
        self._process.stdin.flush()
        assert select.select([self._process.stdout], [], [], LIMIT_S)[0], f"{self.name} does not answer to {word}"
        said = self._process.stdout.readline().decode().strip()
        assert said == word, f"{self.name}: {said!r}; {self.log.read_text()[-2000:]}"

    def renew_host_key(self):
        """As after an installation from scratch."""
        self.switch("off")
        self._host_key.unlink()
        self._host_key.with_suffix(".pub").unlink()
        self.host_key = new_key(self._host_key)
        self.switch("on")

    def processes(self):
        """Everything that runs on it, the server included, as (process id, command line)."""
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append((process.pid, shlex.join(process.cmdline())))
        return found


class RemoteDevices:
    """Two or more of them, and the user who may log in."""

    def __init__(self, net, devices, home):
        self.net, self.devices, self.home = net, devices, home
        self.user = pwd.getpwuid(os.geteuid()).pw_name
        self.known_hosts = home / ".ssh" / "known_hosts"
        self.key = home / ".ssh" / "id_ed25519"

    def trust(self):
        """Know every host key, as after a first login to each."""
        self.known_hosts.write_text("".join(f"{one.known_as} {one.host_key}\n" for one in self.devices))

    def write(self, path, *, local=(), top=None, **values):
        """A device file for them; `values` go to each remote device, or a list of dicts, one for each."""
        each = values.pop("each", [{}] * len(self.devices))
        entries = [
            {
                "name": one.name,
                "host": one.address,
                "ssh_port": one.port,
                "user": self.user,
                "interface": "data",
                **values,
                **own,
            }
            for one, own in zip(self.devices, each, strict=True)
        ]
        path.write_text(yaml.safe_dump({**(top or {}), "devices": [*entries, *local]}))
        return path

    def left_on(self):
        """What runs on the devices beside their SSH servers."""
        return [words for one in self.devices for _, words in one.processes() if "_worker" in words or "ssh " in words]

    def testbed(self, tmp_path, **values):
        """The device file, loaded."""
        return load_testbed(self.write(tmp_path / "devices.yaml", **values))


@contextlib.contextmanager
def running(folder, num_devices=2, profile=UNSHAPED, engine="auto"):
    """Devices that are up and known, and a HOME for the tests that can log in to them."""
    skip_where_missing()
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # what starting the service would make
    home = folder / "user"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    (folder / "authorized_keys").write_text(new_key(home / ".ssh" / "id_ed25519") + "\n")
    with (
        namespaces(num_devices, profile, engine) as net,
        contextlib.ExitStack() as stack,
        pytest.MonkeyPatch.context() as patch,
    ):
        devices = [
            stack.enter_context(RemoteDevice(net, i, folder, folder / "authorized_keys")) for i in range(num_devices)
        ]
        relay = [sys.executable, "-I", "-S", str(HERE / "relay.py"), "%h", "%p"]
        ways = [(one, shlex.join([*net.prefix(one.index), *relay])) for one in devices]
        (home / ".ssh" / "config").write_text(
            "".join(f"Host {one.address}\n  Port {one.port}\n  ProxyCommand {way}\n" for one, way in ways)
        )
        patch.setenv("HOME", str(home))
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        remote = RemoteDevices(net, devices, home)
        remote.trust()
        yield remote
