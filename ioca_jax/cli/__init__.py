"""The command line: flags of configurations, and a module for each command."""
