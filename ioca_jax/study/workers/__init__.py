"""Units of work, (configuration, chunk of seeds), in other processes and machines."""
