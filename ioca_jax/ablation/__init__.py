"""Orders of neurons, ablation curves, and the effects of single neurons."""
