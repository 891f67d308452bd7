"""Make the code-server tree the tests use, with the installer's own step: ``python -m support.build_ide FOLDER``.

Does nothing when the tree is there and up to date. The tree then lies in ``FOLDER/opt/croft/ide``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from appliance.host.install.host import Host
from appliance.host.install.ide import EnsureIde
from appliance.host.install.journal import Journal
from appliance.host.install.packages import Packages

CHECKOUT = Path(__file__).resolve().parents[2]


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    host = Host(root=folder)
    step = EnsureIde(host, Journal(host), Packages(host), CHECKOUT, sys.executable)
    if not step.check():
        step.apply()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
