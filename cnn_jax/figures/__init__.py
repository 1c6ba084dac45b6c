"""Figures of runs and networks, also for TensorBoard. What is drawn is computed elsewhere."""
