"""The colors of all figures: Okabe and Ito's, told apart by every kind of color vision."""

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
TRAIN, TEST = COLORS[:2]
NEUTRAL = "#666666"
WRONG = "#C00000"
