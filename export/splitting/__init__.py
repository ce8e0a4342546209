"""A graph cut in two: what depends on some inputs alone, and the rest."""
