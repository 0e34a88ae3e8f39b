"""An instrument with known truth: networks whose important units are planted.

``networks`` writes their weights by hand, ``measures`` asks which measures find the
planted units, ``pairs`` whether tables name the planted pairs and backups, ``nulls``
how often each test is wrong where nothing is planted, and ``power`` how often it is
right where something is. ``python -m experiments.known_truth`` writes
``experiments/KNOWN_TRUTH.md``.
"""
