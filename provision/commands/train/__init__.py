"""train, preflight and resume: a run on hosts over SSH."""
