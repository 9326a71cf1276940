"""Executing chapters, and the records of full runs."""
