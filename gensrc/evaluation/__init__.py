"""Evaluation of generated examples: metrics, and classifiers of pictures and clips."""
