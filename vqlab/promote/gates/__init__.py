"""Gates: the requirements of a promotion, each with a measured value, a limit and a sentence."""
