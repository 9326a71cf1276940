"""Pictures as tokens: quantised autoencoders and a prior over their codes."""
