"""Turns every kind of model a user can name into an exported program: files, factories, ONNX, known architectures."""
