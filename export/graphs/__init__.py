"""ONNX graphs: read and written, walked, their warps and what computes their grids."""
