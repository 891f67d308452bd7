"""How the machine is doing: read every second, kept for a day in detail and for thirty days in outline."""
