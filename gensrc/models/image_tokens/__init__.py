"""Pictures as tokens: VQ-VAE, FSQ and VQGAN, and a prior over their codes."""
