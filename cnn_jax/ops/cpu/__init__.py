"""Operations as XLA:CPU runs them best; the same numbers as the plain forms, up to rounding."""
