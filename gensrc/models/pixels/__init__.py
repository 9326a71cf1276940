"""Autoregressive models of pictures, pixel by pixel."""
