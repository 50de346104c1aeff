"""check-data, merge, export and chat: a module of trainer/, called outside a run."""
