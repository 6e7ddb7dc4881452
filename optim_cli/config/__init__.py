"""From YAML and overrides to checked values: every mistake at once, with the place it comes from."""
