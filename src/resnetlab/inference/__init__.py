"""Prediction with trained networks: inputs, predictor, Grad-CAM, runtimes (`engines`), exported files (`formats`)."""
