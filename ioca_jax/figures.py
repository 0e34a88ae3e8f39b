"""Placeholder."""


def save_figures(results, folder):
    pass
