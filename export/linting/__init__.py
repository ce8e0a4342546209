"""The rules of lint, and what they ask of a model."""
