"""The model room: files that are not what their name says, as downloads and clones leave them."""

from __future__ import annotations


def impostor(head: bytes) -> str:
    """What a file is that begins with `head`, where it is none of weights or a picture; empty where it may be one.

    >>> impostor(b"")
    'is empty (0 bytes): copy or download it again'
    """
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "is empty (0 bytes): copy or download it again"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git-LFS pointer, not the file itself: run `git lfs pull` where it came from"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is an HTML page, the answer of a web site instead of the file: download the file itself"
    return ""
