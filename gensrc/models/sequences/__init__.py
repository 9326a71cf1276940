"""Autoregressive models of series, texts and sound without attention."""
