"""Adversarial games: networks, losses, and what makes them stable."""
