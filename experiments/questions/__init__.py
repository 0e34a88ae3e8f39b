"""Questions that papers of 2026 ask of single networks, answered over networks."""
