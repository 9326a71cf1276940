"""Autoregressive models of series, texts and sound: AR(p), n-gram, RNN, WaveNet."""
