"""Per-sample solving: every row of a batch with its own steps, times, events and fate.

The states of all rows lie one behind the other in a single row of numbers, ``[1, B * D]``, so methods, fields and gradients are
those of a single solve. What is different is here: times, sizes and verdicts are tensors ``[B]``, and an attempted step is taken
by some rows and not by others (``span.RowSpan``).
"""
