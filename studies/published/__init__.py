"""What papers printed and how it was trained; the protocols under which we train the same; both beside each other."""
