"""What an optimizer does to an element: one function of scalars each, and the table of all."""
