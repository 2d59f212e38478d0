"""onnxlite makes an exported ONNX model smaller and faster on CPU, and proves it."""
