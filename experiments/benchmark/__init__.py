"""Benchmarks of ablation, measures and training beside other libraries."""
