"""The journey on the smallest machine, process runtime: nothing is killed, the daemon and sshd answer all along."""

from __future__ import annotations

import pytest
from support.accounts import throwaway_accounts
from support.appliance import Appliance
from support.cage import small_machine
from support.lifeline import live_in, sshd

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def test_the_journey_fits_and_the_lifeline_holds() -> None:
    """SYS-5, R13: editor open in 2 GB; no OOM kill; daemon and sshd answer within one second throughout."""
    with small_machine() as cage, throwaway_accounts("c") as accounts, sshd(cage) as port:
        appliance = Appliance(accounts, inside=cage.enter)
        try:
            live_in(cage, appliance.start(), port)
        finally:
            appliance.close()
