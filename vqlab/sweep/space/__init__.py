"""Search spaces: their schema, and compilation against the settings of a recipe."""
