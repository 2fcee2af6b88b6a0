"""One trial: training, search of scoring and thresholds, reuse of earlier training, constraints."""
