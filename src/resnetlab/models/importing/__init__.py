"""Import of published ResNet weights: read the file, infer the architecture, convert the tensors, list assumptions."""
