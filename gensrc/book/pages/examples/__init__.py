"""What the page of data sets shows of a set: optional, since a card alone makes a section."""

from gensrc.book.pages.examples import pictures, sounds, texts

EXAMPLES = pictures.EXAMPLES | sounds.EXAMPLES | texts.EXAMPLES
