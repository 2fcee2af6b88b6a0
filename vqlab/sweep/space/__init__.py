"""Search spaces: their schema, and how they are compiled against the settings of a recipe."""
