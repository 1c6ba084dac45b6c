"""Many trials: spaces, the sweep's record, the driver that trains them, populations, Optuna."""
