"""From a rewritten graph to files that are reloaded and compared before they count as done."""
