"""From a torch module to a proven ONNX file: the steps of to_onnx."""
