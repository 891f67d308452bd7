"""Services under the broker: the real Caddy and the real code-server."""

from __future__ import annotations

import os
import socket

import pytest
from conftest import ROOT, poll
