"""push: a model or data onto every host."""
