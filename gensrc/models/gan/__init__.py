"""Generative adversarial networks: losses, penalties, networks, augmentation."""
