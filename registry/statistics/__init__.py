"""The statistics of release gates. Formulas, rules and their sources are in each module."""
