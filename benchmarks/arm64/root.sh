#!/usr/bin/env bash
# Makes the root of an arm64 Debian, or takes the one that is there: bash benchmarks/arm64/root.sh bookworm FOLDER
# Needs root, debootstrap and network. Puts qemu 10 of Debian 13 into FOLDER (7.2, of Debian 12, crashes when torch
# is imported) and registers it with the kernel as the interpreter of arm64 programs until the machine is restarted
# or `echo -1 > /proc/sys/fs/binfmt_misc/paretopipe-arm64`.
set -euo pipefail
suite=$1
mkdir -p "$2" && cd "$2"
root=$PWD/root-$suite
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
command -v debootstrap > /dev/null || { echo "no debootstrap: apt install debootstrap debian-archive-keyring" >&2; exit 1; }
[ "$(id -u)" -eq 0 ] || { echo "this needs root: it makes a root folder and mounts" >&2; exit 1; }

if [ ! -x qemu/usr/bin/qemu-aarch64 ]; then # downloaded through an apt of its own, installed nowhere
  mkdir -p apt/etc/apt/apt.conf.d apt/etc/apt/preferences.d apt/var/lib/apt/lists/partial apt/var/cache/apt/archives/partial
  : > apt/status
  mirror=${DEBIAN_MIRROR:-$(grep -rhoE 'https?://[^ ]*/debian/?( |$)' /etc/apt/sources.list* | head -1)}
  echo "deb [signed-by=$keyring] ${mirror:?set DEBIAN_MIRROR to the address of a mirror of Debian} trixie main" \
    > apt/etc/apt/sources.list
  own=(-o "Dir=$PWD/apt" -o "Dir::State::status=$PWD/apt/status" -o APT::Sandbox::User=root)
  apt-get "${own[@]}" -qq update
  (cd apt && apt-get "${own[@]}" -qq download qemu-user)
  dpkg -x apt/qemu-user_*.deb qemu
fi
[ -e /proc/sys/fs/binfmt_misc/register ] || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
if [ ! -e /proc/sys/fs/binfmt_misc/paretopipe-arm64 ]; then
  magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
  mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
  # F: the interpreter is opened now, and so is there in every root.
  printf '%s' ":paretopipe-arm64:M::$magic:$mask:$PWD/qemu/usr/bin/qemu-aarch64:F" > /proc/sys/fs/binfmt_misc/register
fi
if [ ! -e "$root/made" ]; then
  rm -rf "$root"
  debootstrap --arch arm64 --variant minbase --include \
    openssh-server,python3,python3-venv,ca-certificates,iproute2,procps "$suite" "$root" ${DEBIAN_MIRROR:-}
  chroot "$root" useradd --create-home --shell /bin/bash --password '*' pi # no password, and not locked
  touch "$root/made"
fi
# It finds names, and trusts servers, as this machine does.
cp /etc/resolv.conf /etc/hosts "$root/etc/"
[ ! -e /etc/ssl/certs/ca-certificates.crt ] || cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
chroot "$root" uname -m
