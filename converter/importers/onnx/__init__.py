"""Reads ONNX files of opset 13 to 20 into exported programs; one file a family of operators."""
