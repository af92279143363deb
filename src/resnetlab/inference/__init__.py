"""What computes a network: PyTorch, ONNX Runtime, OpenVINO; and what an exported file says of itself."""
