"""The layerwise study: its cells, what it says of them, its figure."""
