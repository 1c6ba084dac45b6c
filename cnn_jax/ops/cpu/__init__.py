"""Forms of operations that XLA:CPU runs fast; equal to the plain ones up to rounding."""
