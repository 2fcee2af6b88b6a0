"""Gates: the requirements of a promotion, each with a measured value, a bound and a sentence."""
