"""`./zf demo`: the whole chain on this machine, with two embedded SSH hosts."""
