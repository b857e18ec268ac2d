"""Networks by name: definitions of pytorchcv, transformers and other installed packages, with given or random weights."""
