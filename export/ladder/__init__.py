"""Any two rungs of the ladder on the same inputs: what runs, what is measured, what is told; the steps of parity."""
