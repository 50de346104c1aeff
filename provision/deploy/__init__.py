"""A wheel and its environment onto every host, or onto none."""
