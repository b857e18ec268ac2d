"""The engine: load a trained CNN, rewrite its convolutions, fit, heal, measure and give it back."""
