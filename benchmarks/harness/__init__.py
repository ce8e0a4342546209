"""What measuring takes: a process for each contender, turns, statistics, limits of the machine, and the report."""
