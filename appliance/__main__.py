"""``python -m appliance`` is the ``croft`` command."""

import sys

from appliance.cli import main

sys.exit(main())
