"""From functions of scalars to modules: the language of rules, their sources, what a skeleton is filled with."""
