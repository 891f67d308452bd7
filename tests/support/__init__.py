"""Tools several test folders share: a running appliance, a browser, waiting for a condition."""
