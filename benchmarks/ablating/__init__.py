"""What ablation.py is made of: variants, their training side by side, scores, figures."""
