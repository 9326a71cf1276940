"""Transformers: attention, positions, encoder and decoder, GPT and BERT."""
