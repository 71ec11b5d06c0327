"""Who runs one network on one micro-batch: ONNX Runtime, OpenVINO, torch, TensorRT."""
