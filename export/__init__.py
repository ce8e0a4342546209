"""From a torch network to files that are proven equal to it."""
