"""Statistical inference over networks: intervals, tests, claims, hypotheses."""
