"""Measures of neurons, alone and together, from counts of their quantised outputs."""
