"""The link between remote devices, shaped by the devices themselves for as long as this process says so."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from pplib import limits
from pplib.errors import ConfigError, ParetoPipeError
from pplib.links import LinkProfile
from pplib.testbed.shaping.interface import Rule, Shaping
from pplib.testbed.ssh.config import resolve
from pplib.testbed.ssh.machine import Machine
from pplib.testbed.ssh.parallel import all_or_error, for_each


class RemoteLink:
    """Shapes what each device sends to its neighbours: forward to the next, backward to the one before.

    The last device sends results straight to the first: backward, too. SSH, and the control
    connection with it, stay as they are; where the data plane is `tunnelled` through SSH, only SSH
    from other machines does. Each device undoes its shaping by itself when it was not
    renewed for `limits.SHAPE_UNDO_AFTER_S`, and so when this process or the connection to the device is gone.
    """

    def __init__(self, machines: Sequence[Machine], tunnelled: bool = False) -> None:
        self._machines, self._tunnelled = list(machines), tunnelled
        self._shapings: list[Shaping] = []
        self._done = threading.Event()
        self._renewing: threading.Thread | None = None

    def set_profile(self, profile: LinkProfile) -> None:
        """Shape every hop by `profile`, or undo all shaping if it asks for none.

        Raises:
            ConfigError: a device names no interface, or its kernel or user cannot do it.
            TransportError: a device cannot be reached.
        """
        self.close()
        if not profile.shaped:
            return
        self._done.clear()
        for machine in self._machines:
            if machine.device.interface is None:
                raise ConfigError(
                    f"{machine.name}: expected `interface` in the device file, the one that its data goes through: "
                    f"link {profile.name} is to shape it"
                )
        addresses = [resolve(machine.device) for machine in self._machines]
        self._shapings = [
            Shaping(one.as_root, str(one.device.interface), limits.SHAPE_UNDO_AFTER_S) for one in self._machines
        ]

        def start(i: int) -> None:
            self._shapings[i].start(_rules(i, addresses, profile), self._exempt_ports())

        try:
            all_or_error(for_each(range(len(self._machines)), start, limits.SHAPE_S))
        except ParetoPipeError:
            self.close()
            raise
        self._renewing = threading.Thread(target=self._renew, name="renew shaping", daemon=True)
        self._renewing.start()

    def _exempt_ports(self) -> list[int]:
        if self._tunnelled:
            return []
        return sorted({22, *(one.device.ssh_port or 22 for one in self._machines)})

    def close(self) -> None:
        """Put back what was there."""
        self._done.set()
        if self._renewing is not None:
            self._renewing.join(limits.SHAPE_S)
            self._renewing = None
        for_each(self._shapings, lambda shaping: shaping.undo(), limits.SHAPE_S)
        self._shapings = []

    def _renew(self) -> None:
        while not self._done.wait(limits.SHAPE_RENEW_S):
            # Where this fails for long the device undoes its shaping, and the measurement after the trials finds it so.
            for_each(self._shapings, lambda shaping: shaping.renew(), limits.SHAPE_UNDO_AFTER_S / 3)


def _rules(i: int, addresses: Sequence[str], profile: LinkProfile) -> list[Rule]:
    last, rules = len(addresses) - 1, []
    if i < last:
        rules.append(Rule(direction=profile.forward, peer=addresses[i + 1]))
    before = {i - 1} if i else set()
    if i == last:
        before |= {0}
    return rules + [Rule(direction=profile.backward, peer=addresses[j]) for j in sorted(before)]
