"""What judges generated examples: metrics, and networks that read pictures."""
