"""How far the neurons of a layer are from the best possible signs, by certificate."""
