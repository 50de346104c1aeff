"""node: one node's part of a run, started by hand on it."""
