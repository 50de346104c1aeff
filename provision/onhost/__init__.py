"""Standard-library scripts (Python 3.8 or later) that run on hosts; never imported here."""
