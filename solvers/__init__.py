"""How parameters move; knows no network."""

BELONGS_TO = "bitrelax"
