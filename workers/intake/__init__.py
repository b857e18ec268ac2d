"""Rebuilds files from strangers: what leaves is made of allow-listed parts only, and nothing here imports torch.

`vet.vet` is the door; `program`, `onnx_file`, `safetensors_file` and `datasets` hold one kind each (docs/intake.md).
"""
