"""Ways to make a trained network faster, compared at equal conditions: net, data, healing budget and runtimes."""
