"""Many relaxations that share a Gram matrix, solved and certified together."""
