"""The verbs of the ``croft`` command, one page an area. Rule: a verb only asks the daemon and shows what it says."""
