"""The acceptance report: one self-contained HTML page on a promotion or a refusal."""
