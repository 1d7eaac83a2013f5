"""Updates of parameters and state, with 8-bit state too, and the scalars that change with the step."""
