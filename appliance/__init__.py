"""Croft's appliance: the daemon, the broker and the command line of one machine."""

__version__ = "0.1.0"
