"""Memory planner: what a run needs per GPU and per host, whether it fits, and what to change."""
