"""Lines of known_hosts, the marked ones and those that are none."""

from __future__ import annotations

import paramiko
import pytest
from paramiko.hostkeys import HostKeys

from pplib.testbed.ssh.known_hosts import AUTHORITY, REVOKED, Marked, load_known_hosts

KEYS = [paramiko.ECDSAKey.generate() for _ in range(2)]
FIRST, SECOND = (f"{key.get_name()} {key.get_base64()}" for key in KEYS)
HASHED = HostKeys.hash_host("[pi]:2222")


@pytest.mark.parametrize(
    ("names", "host", "yes"),
    [
        ("pi", "pi", True),
        ("PI", "pi", True),
        ("*", "[pi]:2222", True),
        ("[pi]:2222", "[pi]:2222", True),
        ("[pi]:2222", "pi", False),
        ("*.local,other", "a.local", True),
        ("*.local,!a.local", "a.local", False),
        ("[10.0.?.1]:22", "[10.0.7.1]:22", True),
        pytest.param(HASHED, "[pi]:2222", True, id="hashed"),
        pytest.param(HASHED, "pi", False, id="hashed-other"),
        ("|1|broken|x", "pi", False),
        ("|1|", "pi", False),
    ],
)
def test_names_match_as_ssh_has_it(names, host, yes):
    assert Marked(AUTHORITY, names, FIRST, "").is_for(host) is yes


def test_a_file_gives_its_keys_but_those_that_are_revoked_and_its_marked_lines(tmp_path):
    path = tmp_path / "known_hosts"
    lines = [
        "# a comment",
        "",
        f"pi {FIRST} comment words",
        f"pi2 {SECOND}",
        f"@cert-authority *.local {SECOND}",
        f"@revoked * {SECOND}",
        "@revoked",
        "@unknown",
        "pi3 ssh-ed25519 !!!",
        "pi3 ssh-rsa AAAA",
        "pi3",
    ]
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe pi4 x\n")
    client = paramiko.SSHClient()
    marked = load_known_hosts(client, [path])
    assert [(one.marker, one.names, one.where) for one in marked] == [
        (AUTHORITY, "*.local", f"{path}, line 5"),
        (REVOKED, "*", f"{path}, line 6"),
    ]
    assert set(client._system_host_keys.keys()) == {"pi"}
    assert load_known_hosts(client, [tmp_path / "none"]) == []


def test_what_one_file_revokes_no_other_makes_known(tmp_path):
    own, system = tmp_path / "known_hosts", tmp_path / "ssh_known_hosts"
    own.write_text(f"pi {FIRST}\npi2 {SECOND}\n")
    system.write_text(f"@revoked * {FIRST}\n")
    for paths in ([own, system], [system, own]):
        client = paramiko.SSHClient()
        assert [one.marker for one in load_known_hosts(client, paths)] == [REVOKED]
        assert set(client._system_host_keys.keys()) == {"pi2"}
