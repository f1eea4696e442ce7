"""Devices over SSH: real servers, and every way in which they fail to be there."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from pplib import limits
from pplib.devices import Device
from pplib.errors import ConfigError, TransportError
from pplib.links import Direction
from pplib.testbed.shaping.interface import Rule, Shaping
from pplib.testbed.ssh import device as room
from pplib.testbed.ssh.command import CommandError
from pplib.testbed.ssh.config import resolve
from pplib.testbed.ssh.device import SshDevice
from pplib.testbed.ssh.login import AccessError, Unreachable

LIMIT_S = 30.0


@pytest.fixture
def first(remote, tmp_path):
    """A connection to the first device."""
    with SshDevice(remote.testbed(tmp_path).devices[0]) as device:
        yield device


def device_of(remote, tmp_path, index=0, **values):
    return remote.testbed(tmp_path, **values).devices[index]


def test_a_command_runs_on_the_device_and_tells_how_it_ended(remote, first):
    done = first.run(["sh", "-c", 'echo "$HOME"; hostname -I; cat; echo oh >&2; exit 3'], stdin=b"read")
    assert done.stdout == f"{remote.devices[0].home}\n{remote.devices[0].address} \nread"
    assert (done.returncode, done.stderr) == (3, "oh\n")
    with pytest.raises(CommandError, match=r"device-0: `sh -c .*` failed \(exit status 3\): oh"):
        first.run(["sh", "-c", "echo oh >&2; exit 3"], check=True)
    assert first.run(["printf", "%s|", "a b", "$HOME", "it's"]).stdout == "a b|$HOME|it's|"


def test_what_goes_through_standard_input_is_in_no_process_list_and_no_environment(remote, first, wait_until):
    secret = "0123456789abcdef" * 2
    script = "read token; echo ${#token}; env; tr '\\0' ' ' < /proc/self/cmdline; ps -ef"
    said = first.run(["sh", "-c", script], stdin=secret.encode() + b"\n", check=True).stdout
    assert said.startswith("32\n") and "sshd" in said
    assert secret not in said


def test_what_a_start_up_file_of_the_shell_says_is_no_part_of_an_answer(remote, first, tmp_path):
    start_up = remote.devices[0].home / ".bashrc"
    start_up.write_text("echo 'Welcome! code=0'; echo 'a warning' >&2\n")
    shell = Path(pwd.getpwuid(os.geteuid()).pw_shell).name
    try:
        done = first.run(["sh", "-c", "echo out; echo err >&2"])
        assert (done.stdout, done.stderr) == ("out\n", "err\n")
        channel = first.hold(["sh", "-c", "echo up; exec cat"])
        assert channel.recv(16) == b"up\n"
        channel.close()
        if shell == "bash":  # the others read another file
            start_up.write_text("echo 'no logins today'; exit 3\n")
            with pytest.raises(CommandError, match=r"device-0: the login ends before our command .*no logins today"):
                first.run(["true"])
            with pytest.raises(CommandError, match="no logins today"):
                first.hold(["true"])
    finally:
        start_up.unlink()


@pytest.mark.parametrize(("name", "status", "meaning"), [
    ("ILL", 132, "exit status 132, SIGILL: an instruction that its processor has not"),
    ("KILL", 137, "exit status 137, SIGKILL: most likely the kernel, because memory ran out"),
    ("SEGV", 139, "exit status 139, SIGSEGV: "),
])  # fmt: skip
def test_a_command_that_dies_by_a_signal_is_told_by_its_name_and_meaning(first, name, status, meaning):
    dies = ["sh", "-c", f"kill -{name} $$"]
    assert first.run(dies).returncode == status
    with pytest.raises(CommandError, match=meaning):
        first.run(dies, check=True)


def test_a_server_that_forbids_forwarding_is_told_what_to_allow(remote, tmp_path):
    one = remote.devices[0]
    before = one.config.read_text()
    one.switch("off")
    one.config.write_text(before.replace("AllowTcpForwarding yes", "AllowTcpForwarding no"))
    one.switch("on")
    try:
        with SshDevice(device_of(remote, tmp_path)) as device:
            assert "set `AllowTcpForwarding yes` in its /etc/ssh/sshd_config" in device.forwarding_forbidden()
    finally:
        one.switch("off")
        one.config.write_text(before)
        one.switch("on")
    with SshDevice(device_of(remote, tmp_path)) as device:
        assert device.forwarding_forbidden() == ""


def test_an_alias_in_an_included_file_is_logged_in_to_and_its_host_name_is_the_data_address(remote, tmp_path):
    config, one = remote.home / ".ssh" / "config", remote.devices[0]
    before = config.read_text()
    (config.parent / "conf.d").mkdir()
    way = before[before.index("  ProxyCommand") : before.index("Host", 10)].replace("%h", one.address)
    (config.parent / "conf.d" / "pi").write_text(
        f"Host my-pi\n  HostName {one.address}\n  HostKeyAlias none\n  Port {one.port}\n  User {remote.user}\n{way}"
    )
    config.write_text(f"Include conf.d/*\n{before}")
    try:
        device = Device(name="pi", host="my-pi")
        assert resolve(device) == one.address
        with SshDevice(device) as open_one:
            assert open_one.run(["hostname", "-I"]).stdout.split() == [one.address]
    finally:
        config.write_text(before)
        shutil.rmtree(config.parent / "conf.d")


def test_commands_run_side_by_side_on_one_connection(remote, first):
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda i: first.run(["sh", "-c", f"sleep 0.2; echo {i}"]).stdout, range(8)))
    assert said == [f"{i}\n" for i in range(8)]
    assert sum("sshd: " in line and "priv" not in line for _, line in remote.devices[0].processes()) <= 3


def test_an_unknown_host_key_is_refused_and_the_message_leads_to_trusting_it(remote, tmp_path):
    shown = subprocess.run(
        ["ssh-keygen", "-lf", str(remote.devices[0].log.parent / "host-key-0.pub")],
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT_S,
    ).stdout.split()[1]
    address, user = remote.devices[0].address, remote.user
    remote.known_hosts.write_text("")
    try:
        with pytest.raises(AccessError) as caught:
            SshDevice(device_of(remote, tmp_path)).open()
        assert remote.known_hosts.read_text() == ""
    finally:
        remote.trust()
    said = str(caught.value)
    assert said.startswith("device-0: its host key is in no known_hosts file") and shown in said
    assert "`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the device" in said
    assert f"`ssh -p 2222 {user}@{address}`" in said
    assert f"`ssh-keyscan -t ed25519 -p 2222 {address} >> ~/.ssh/known_hosts`" in said


def test_the_known_hosts_file_of_the_configuration_counts_too(remote, tmp_path):
    own = tmp_path / "known hosts"
    own.write_text(remote.known_hosts.read_text())
    config = remote.home / ".ssh" / "config"
    before = config.read_text()
    remote.known_hosts.write_text("")
    try:
        config.write_text(f"{before}Host *\n  UserKnownHostsFile '{own}'\n  StrictHostKeyChecking no\n")
        with SshDevice(device_of(remote, tmp_path)) as device:
            assert device.run(["true"]).returncode == 0
        own.write_text("")  # StrictHostKeyChecking is not ours to follow
        with pytest.raises(AccessError, match="in no known_hosts file"):
            SshDevice(device_of(remote, tmp_path)).open()
    finally:
        config.write_text(before)
        remote.trust()


def test_marked_lines_of_known_hosts_are_understood_or_told_of_plainly(remote, tmp_path):
    one = remote.devices[0]
    plain, authority = f"{one.known_as} {one.host_key}\n", f"@cert-authority *,[*]:* {one.host_key} CA\n"
    garbage = "@revoked\n@cert-authority * ssh-ed25519\nhost ssh-ed25519 !!!\n|1|a|b ssh-rsa AAAA\n\xff\n"
    try:
        remote.known_hosts.write_text(garbage + authority + f"@revoked * {remote.devices[1].host_key}\n" + plain)
        with SshDevice(device_of(remote, tmp_path)) as device:
            assert device.run(["true"]).returncode == 0
        remote.known_hosts.write_text(authority)
        with pytest.raises(
            AccessError, match=r"authority may vouch for it \(.*known_hosts, line 1\), .*`ssh-keyscan -t ed"
        ):
            SshDevice(device_of(remote, tmp_path)).open()
        for names in ("*", one.known_as, "other,[10.77.*]:2222"):
            remote.known_hosts.write_text(f"{plain}{authority}@revoked {names} {one.host_key}\n")
            with pytest.raises(AccessError, match=r"which is revoked \(.*known_hosts, line 3\)"):
                SshDevice(device_of(remote, tmp_path)).open()
    finally:
        remote.trust()


def test_a_host_key_that_has_changed_is_refused(remote, tmp_path):
    before = remote.devices[0].host_key
    remote.devices[0].renew_host_key()
    assert remote.devices[0].host_key != before
    try:
        with pytest.raises(AccessError, match=r"has changed, from .*ssh-keygen -R '\[10.77.0.1\]:2222'`; then"):
            SshDevice(device_of(remote, tmp_path)).open()
    finally:
        remote.trust()
    with SshDevice(device_of(remote, tmp_path)) as device:
        assert device.run(["true"]).returncode == 0


def test_a_key_that_the_device_does_not_accept_is_an_error_that_says_what_to_do(remote, tmp_path):
    for name, phrase in (("stranger", ""), ("locked", "words")):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", phrase, "-f", str(tmp_path / name)], check=True, timeout=LIMIT_S
        )
        device = device_of(remote, tmp_path, key=str(tmp_path / name))
        with pytest.raises(AccessError, match=rf"accepts none of our keys \(.*{name}\): .*ssh-copy-id.*ssh-add"):
            SshDevice(device).open()
    (tmp_path / "garbage").write_text("no key\n")
    with pytest.raises(TransportError, match=r"device-0"):
        SshDevice(device_of(remote, tmp_path, key=str(tmp_path / "garbage"))).open()


def test_a_key_of_the_device_file_logs_in_where_there_is_no_default_one(remote, tmp_path):
    moved = remote.key.rename(tmp_path / "moved")
    try:
        with pytest.raises(AccessError, match="accepts none of our keys"):
            SshDevice(device_of(remote, tmp_path)).open()
        with SshDevice(device_of(remote, tmp_path, key=str(moved))) as device:
            assert device.run(["true"]).returncode == 0
    finally:
        moved.rename(remote.key)


@contextlib.contextmanager
def server(behave):
    """A listener on this machine that is no SSH server."""
    with socket.create_server(("127.0.0.2", 0)) as listener:
        listener.settimeout(LIMIT_S)

        def serve():
            with contextlib.suppress(OSError), listener.accept()[0] as connection:
                behave(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(LIMIT_S)


def test_a_port_where_nothing_or_something_else_listens_is_said_so(remote):
    with socket.create_server(("127.0.0.2", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Unreachable, match=rf"pi: 127.0.0.2:{port} refused the connection.*systemctl enable --now ssh"):
        SshDevice(Device(name="pi", host="127.0.0.2", ssh_port=port)).open()
    with (
        server(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port,
        pytest.raises(Unreachable, match=r"pi: .*answers, but opens no SSH connection"),
    ):
        SshDevice(Device(name="pi", host="127.0.0.2", ssh_port=port)).open()
    with pytest.raises(Unreachable, match=r"pi: no address is known for 'pi.invalid'"):
        SshDevice(Device(name="pi", host="pi.invalid")).open()


def test_a_server_that_accepts_and_then_says_nothing_costs_no_more_than_the_limit(remote):
    with server(lambda connection: connection.recv(10_000) and connection.recv(10_000)) as port:
        start = time.monotonic()
        with pytest.raises(Unreachable, match="answers, but opens no SSH connection"):
            SshDevice(Device(name="pi", host="127.0.0.2", ssh_port=port), connect_timeout_s=1).open()
        assert time.monotonic() - start < LIMIT_S


def test_what_a_proxy_command_says_when_it_fails_is_told(remote, tmp_path):
    remote.devices[1].switch("off")
    try:
        with pytest.raises(Unreachable, match=r"device-1: .*2222 cannot .* the ProxyCommand .*: relay: .*refused"):
            SshDevice(device_of(remote, tmp_path, 1)).open()
    finally:
        remote.devices[1].switch("on")


def test_host_keys_on_the_way_are_checked_as_well(remote, tmp_path):
    config = remote.home / ".ssh" / "config"
    before = config.read_text()
    way, end = remote.devices
    direct = before[: before.index(f"Host {end.address}")]
    config.write_text(f"{direct}Host {end.address}\n  ProxyJump {remote.user}@{way.address}\n")
    try:
        with SshDevice(device_of(remote, tmp_path, 1)) as device:
            assert device.run(["hostname", "-I"]).stdout.split() == [end.address]
        remote.known_hosts.write_text(f"{end.known_as} {end.host_key}\n")
        with pytest.raises(AccessError, match=r"device-1: its host key is in no known_hosts file"):
            SshDevice(device_of(remote, tmp_path, 1)).open()
    finally:
        config.write_text(before)
        remote.trust()


def test_a_command_that_takes_too_long_is_ended_on_the_device_too(remote, first, wait_until):
    with pytest.raises(CommandError, match=r"device-0: `sleep 98765` did not end within 1 s"):
        first.run(["sleep", "98765"], timeout_s=1)
    assert not [line for _, line in remote.devices[0].processes() if line == "sleep 98765"]


def test_a_command_that_says_too_much_is_left_and_the_connection_goes_on(remote, first, wait_until):
    with pytest.raises(CommandError, match=r"device-0: `yes` wrote more than 100000 bytes"):
        first.run(["yes"], max_output_bytes=100_000)
    assert first.run(["echo", "on"]).stdout == "on\n"
    wait_until(lambda: "yes" not in [line for _, line in remote.devices[0].processes()], "it goes on talking")


def during(first, remote, wait_until, words):
    """A command under way on the first device."""
    pool = ThreadPoolExecutor(1)
    under_way = pool.submit(first.run, words, timeout_s=2)
    pool.shutdown(wait=False)
    line = " ".join(words)
    wait_until(lambda: line in [line for _, line in remote.devices[0].processes()], "the command did not start")
    return under_way


def test_a_device_that_freezes_during_a_command_is_given_up_and_found_again(remote, first, wait_until, monkeypatch):
    monkeypatch.setattr(limits, "SSH_GRACE_S", 1.0)
    under_way = during(first, remote, wait_until, ["sleep", "87654"])
    remote.devices[0].switch("freeze")
    try:
        with pytest.raises(Unreachable, match=r"device-0: no answer in time .* during `sleep 87654`"):
            under_way.result(LIMIT_S)
        with pytest.raises(Unreachable, match=r"device-0"):
            SshDevice(first.device, connect_timeout_s=1).open()
    finally:
        remote.devices[0].switch("thaw")
    assert first.run(["echo", "again"]).stdout == "again\n"


def test_a_device_that_is_switched_off_is_noticed_at_once_and_found_again(remote, first, wait_until):
    under_way = during(first, remote, wait_until, ["sleep", "76543"])
    remote.devices[0].switch("off")
    try:
        with pytest.raises(Unreachable, match=r"device-0: the connection was lost during `sleep 76543`"):
            under_way.result(LIMIT_S)
        with pytest.raises(Unreachable, match=r"device-0"):
            first.run(["true"])
    finally:
        remote.devices[0].switch("on")
    assert first.run(["echo", "again"]).stdout == "again\n"


FROM_A_DEVICE = """
import sys
from pplib.devices import Device
from pplib.errors import TransportError
from pplib import limits
from pplib.testbed.ssh.device import SshDevice
limits.SSH_KEEPALIVE_S, limits.SSH_LOST_S = 1, 2.0
device = SshDevice(Device(name="next", host=sys.argv[1], ssh_port=int(sys.argv[2]), user=sys.argv[3]))
try:
    device.run(["sleep", "43210"], timeout_s=3600)
except TransportError as exc:
    sys.exit(str(exc))
"""


def test_a_device_that_loses_its_network_is_noticed_long_before_the_limit_of_a_command(start_remote, wait_until):
    with start_remote() as remote:
        first, second = remote.devices
        (remote.home / ".ssh" / "config").write_text("")  # from the first device there is no proxy on the way
        words = [sys.executable, "-c", FROM_A_DEVICE, second.address, str(second.port), remote.user]
        with remote.net.popen(first.index, words, stderr=subprocess.PIPE, env=paths_for_pplib()) as client:
            wait_until(lambda: any(line == "sleep 43210" for _, line in second.processes()), "it did not start")
            cut = [*remote.net.prefix(second.index), "ip", "link", "set", "dev", "data", "down"]
            subprocess.run(cut, check=True, timeout=LIMIT_S)
            said = client.communicate(timeout=LIMIT_S)[1].decode()
        assert "next: the connection was lost during `sleep 43210`" in said


def paths_for_pplib():
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def test_a_file_arrives_whole_under_its_name_or_not_at_all(remote, first, tmp_path, monkeypatch):
    home, content = remote.devices[0].home, os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(content)
    assert first.put(tmp_path / "file", "~/new folder/it's", mode=0o640) == len(content)
    arrived = home / "new folder" / "it's"
    assert arrived.read_bytes() == content
    assert stat.S_IMODE(arrived.stat().st_mode) == 0o640
    assert first.put(b"", str(home / "empty")) == 0
    assert (home / "empty").read_bytes() == b""
    for size, digest, reason in ((4, "0" * 64, "it arrived changed"), (5, "0" * 64, "4 of 5 bytes arrived")):
        monkeypatch.setattr(room, "size_and_digest", lambda source, found=(size, digest): found)
        with pytest.raises(CommandError, match=f"device-0: .*{reason}"):
            first.put(b"evil", "~/new folder/it's")
    assert arrived.read_bytes() == content
    assert [path.name for path in arrived.parent.iterdir()] == ["it's"]


def test_a_full_disk_is_an_error_that_leaves_nothing(first, remote):
    if os.geteuid() != 0:
        return  # an ordinary user cannot make a small disk
    disk = remote.devices[0].home / "disk"
    disk.mkdir()
    assert first.as_root(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)]).returncode == 0
    try:
        with pytest.raises(CommandError, match=r"device-0: .*No space left on device"):
            first.put(bytes(1_000_000), "~/disk/file")
        assert not list(disk.iterdir())
    finally:
        assert first.as_root(["umount", str(disk)]).returncode == 0


def test_the_data_interface_is_shaped_over_ssh_and_put_back(remote, first, tmp_path):
    def shown():
        return first.as_root(["tc", "qdisc", "show", "dev", "data"]).stdout

    before = shown()
    shaping = Shaping(first.as_root, "data", folder=str(tmp_path))
    rules = [Rule(direction=Direction(rate_bit_s=1e6), ports=(7000,))]
    if os.geteuid() != 0:
        with pytest.raises(ConfigError, match="shaping needs root on the device"):
            shaping.start(rules)
        return
    shaping.start(rules)
    try:
        assert "tbf" in shown()
    finally:
        shaping.undo()
    assert shown() == before


def test_who_is_not_root_goes_through_sudo_without_a_question_or_is_told(remote, first):
    programs = remote.devices[0].home / "bin"
    programs.mkdir()

    def program(name, text):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)

    try:
        program("id", "echo 1000")  # the device now takes its user for an ordinary one
        program("sudo", 'echo "sudo: a password is required" >&2; exit 1')
        with pytest.raises(ConfigError, match=r"password is required; device-0: .*without a pass.*shaping needs root"):
            Shaping(first.as_root, "data").start([])
        program("sudo", 'echo "with: $*"; [ "$1 $2" = "-n --" ] && shift 2 && exec "$@"')
        done = first.as_root(["echo", "a b"])
        assert (done.returncode, done.stdout) == (0, "with: -n -- echo a b\na b\n")
    finally:
        for path in programs.iterdir():
            path.unlink()
        programs.rmdir()


def test_the_runner_of_shaping_reports_a_lost_device_and_raises_nothing(remote, tmp_path):
    device = SshDevice(Device(name="pi", host="pi.invalid"))
    done = device.as_root(["true"])
    assert done.returncode == 127 and "pi: no address is known" in done.stderr


def test_nothing_is_left_when_the_process_that_uses_devices_is_killed(remote_possible, wait_until, tmp_path):
    owner = Path(__file__).resolve().parents[1] / "helpers" / "remote_owner.py"
    with subprocess.Popen(
        [sys.executable, str(owner), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=paths_for_pplib(),
    ) as process:
        said = process.stdout.readline()
        assert said, "the owner has ended"
        running = [psutil.Process(pid) for pid in json.loads(said)]
        assert len(running) >= 8 and all(one.is_running() for one in running)
        process.kill()
        process.wait(LIMIT_S)
    wait_until(lambda: not [one for one in running if one.is_running()], "something goes on")


def test_closing_leaves_neither_a_process_here_nor_a_session_there(remote, tmp_path, wait_until):
    def relays():
        lines = [path / "cmdline" for path in Path("/proc").iterdir() if path.name.isdecimal()]
        found = []
        for line in lines:
            with contextlib.suppress(OSError):
                found += [line] if b"relay.py" in line.read_bytes() else []
        return found

    before = relays()
    device = SshDevice(device_of(remote, tmp_path))
    device.open()
    assert len(relays()) == len(before) + 1
    device.close()
    device.close()
    assert relays() == before
    wait_until(lambda: len(remote.devices[0].processes()) == 1, "a session is left on the device")
