"""Mixed precision: which nodes 16 bits can serve, the typed pass, its emulation and its gate; the steps of to_fp16."""
