"""The site: built by Jupyter Book, with a Sphinx extension of our own."""
