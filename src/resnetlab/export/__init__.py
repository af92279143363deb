"""Export of networks to ONNX, OpenVINO and torch.export: `export`, its verification in `verify`, int8 in `quantize`."""
