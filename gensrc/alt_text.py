"""How much a text alternative must say at least: figures, explorers and the check of chapters all ask here."""

LEAST = 20  # characters


def says_enough(alt: str) -> bool:
    return len(alt.strip()) >= LEAST
