"""Exported files: ONNX, OpenVINO IR and `torch.export` programs, their metadata, checksums and sidecar cache."""
