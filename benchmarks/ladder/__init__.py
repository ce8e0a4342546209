"""What benchmarks/parity.py consists of: rungs, rows, pictures, the report."""
