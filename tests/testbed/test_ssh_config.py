"""What ~/.ssh/config says, with the files that it includes."""

from __future__ import annotations

import pytest

from pplib.devices import Device
from pplib.errors import ConfigError
from pplib.testbed.ssh.config import host_name, ssh_config


@pytest.fixture
def ssh_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    return tmp_path / ".ssh"


def test_included_files_count_where_they_are_included_and_a_block_goes_on_after_them(ssh_folder):
    (ssh_folder / "more").mkdir()
    (ssh_folder / "more" / "a").write_text("Host pi\n  HostName 10.0.0.7\n  Port 2200\n")
    (ssh_folder / "more" / "b").write_text("  User from-b\n")
    (ssh_folder / "with space").write_text("Host other\n  HostName 10.0.0.8\n")
    (ssh_folder / "config").write_text(
        'Include=more/a none/* "~/.ssh/with space"\nCompression yes\n'
        "Host pi\n  Port 1\n  Include more/b\n  IdentityFile ~/.ssh/mine\nHost *\n  User anybody\n"
    )
    pi = ssh_config(Device(name="pi", host="pi")).lookup("pi")
    assert (pi["hostname"], pi["port"], pi["user"], pi["compression"]) == ("10.0.0.7", "2200", "from-b", "yes")
    assert pi["identityfile"][0].endswith("/.ssh/mine")
    other = ssh_config(Device(name="x", host="other")).lookup("other")
    assert (other["hostname"], other["user"], other["compression"]) == ("10.0.0.8", "anybody", "yes")
    assert host_name(Device(name="x", host="plain.local")) == "plain.local"


def test_what_the_device_file_says_comes_first(ssh_folder):
    (ssh_folder / "config").write_text("Host pi\n  User a\n  Port 1\n")
    found = ssh_config(Device(name="pi", host="pi", user="b", ssh_port=2)).lookup("pi")
    assert (found["user"], found["port"]) == ("b", "2")


def test_files_that_include_each_other_without_end_are_an_error(ssh_folder):
    (ssh_folder / "config").write_text("Include config\n")
    with pytest.raises(ConfigError, match="more than 16 files include each other"):
        ssh_config(Device(name="pi", host="pi"))
