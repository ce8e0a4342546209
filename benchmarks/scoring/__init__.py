"""How good generated pictures are: what ``benchmarks/quality.py`` measures, and of what."""
