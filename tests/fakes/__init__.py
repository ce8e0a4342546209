"""Stand-ins for a GPU: its memory and streams (gpu), two ways to call its driver, TensorRT, and arrays of a caller."""
