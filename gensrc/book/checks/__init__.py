"""What must hold of a chapter: its rules, its outputs' freshness, their agreement with a new run."""
