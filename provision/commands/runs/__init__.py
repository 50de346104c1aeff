"""The commands about runs that were started over SSH."""
