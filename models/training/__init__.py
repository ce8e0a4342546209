"""Training over a budget of steps."""
