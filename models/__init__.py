"""The paper's pose-transfer network in torch: its modules, training, data and checkpoints."""
