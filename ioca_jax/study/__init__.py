"""A study: its configuration, what it computes, and the folder it writes."""
