"""One file a question, each runnable with `python -m studies.NAME`."""

BELONGS_TO = "bitrelax"
