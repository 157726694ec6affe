"""What a binary network is; knows no method. Imports nothing, so that a torch-free part can live below it."""

BELONGS_TO = "bitrelax"  # the start-up guard tells our package from a foreign one of the same name by this
