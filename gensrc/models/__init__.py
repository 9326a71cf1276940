"""The models, one folder a family, one file a model: network, loss and sampling."""
