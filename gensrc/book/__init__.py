"""The machinery that executes, checks and publishes the book. Needs the extra `book`."""
