"""Labelled results: the variables of ``study.nc``, its files, and selections."""
