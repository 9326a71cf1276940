"""gensrc: the one module that every chapter of Generative AI from Source imports.

Importing it loads nothing heavy; `gensrc.book.checks.staleness` relies on that to judge staleness without torch.
"""

__version__ = "0.1.0"
