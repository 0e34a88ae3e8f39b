"""Networks: the protocol, the built-in networks, any traced function, training."""
