"""Many trials: spaces, the driver that trains and resumes them, populations, Optuna."""
