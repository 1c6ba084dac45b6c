"""Pictures: of runs, of networks, for TensorBoard. What is drawn is computed elsewhere."""
