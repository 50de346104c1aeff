"""The controller: build, hosts, deploy, launch. Never imports torch."""

import sys

# Invoke turns bytecode off for whatever it loads (https://docs.pyinvoke.org/en/stable/invoke.html,
# --write-pyc): every command would compile all of ours anew. It is as Python itself was told.
sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)
