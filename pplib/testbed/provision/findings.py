"""What `check` finds, and how it is shown: a table, and what to do about what is not well."""

from __future__ import annotations

from typing import Literal

import msgspec

_SYSTEM = ("cores", "memory", "disk", "clock")
ROWS = ("reachable", "Python", "torch", "runtimes", "code", *_SYSTEM, "data", "shaping", "next hop")

Level = Literal["ok", "warn", "fail"]
MARKS: dict[Level, str] = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


class Finding(msgspec.Struct, frozen=True):
    """One judged fact. `fail`: nothing can be measured; `warn`: something cannot. `advice` says what to do."""

    row: str
    level: Level
    text: str
    advice: str = ""


class CheckReport(msgspec.Struct, frozen=True):
    """The findings of each device, by its name, in pipeline order."""

    devices: dict[str, list[Finding]]

    @property
    def ok(self) -> bool:
        """Whether nothing that is required fails."""
        return all(one.level != "fail" for findings in self.devices.values() for one in findings)

    def __str__(self) -> str:
        """A table, a column for each device, and below it what to do about what is not well."""
        cells = {(name, one.row): f"{MARKS[one.level]} {one.text}" for name, own in self.devices.items() for one in own}
        rows = [["", *self.devices]]
        rows += [[row, *(cells.get((name, row), "   -") for name in self.devices)] for row in ROWS]
        widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        todo = [(name, one) for name, own in self.devices.items() for one in own if one.advice]
        if todo:
            lines += [
                "",
                "What to do:",
                *(f"  {MARKS[one.level]} {name}, {one.row}: {one.advice}" for name, one in todo),
            ]
        return "\n".join(lines)
