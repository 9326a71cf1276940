"""The networks, one file a family: network, loss and sampling together."""
