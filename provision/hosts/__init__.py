"""Which hosts, what is on them, and whether it fits."""
