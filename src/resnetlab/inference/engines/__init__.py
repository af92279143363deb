"""Runtimes that compute a network's logits and feature maps: PyTorch, ONNX Runtime, OpenVINO."""
