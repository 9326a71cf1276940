"""Autoregressive models of pixels: PixelCNN, PixelRNN and their relatives."""
