"""Checks of a dataset: `report` runs them, `content` looks at masks and images, `duplicates` and
`unused` at files. `vqlab.data` exports what other rooms use."""
