"""Commands: what may run, who says so, and the runs themselves. A rule decides, a person approves, the broker starts."""
