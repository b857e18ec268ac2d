"""Channel pruning of converted and unconverted graphs, by torch-pruning's dependency graph."""
