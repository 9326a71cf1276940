"""Transformers: attention, positions, blocks, and the language models of them."""
