"""ONNX Runtime on a CPU and on a GPU."""
