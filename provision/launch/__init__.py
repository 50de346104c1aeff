"""A training run on the hosts."""
