"""What leaves the repository: the notebooks that Colab opens, and their first cell."""
