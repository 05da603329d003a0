"""One file for each published system: what it is trained on, what it is measured against, and its picture.

A file has ``measured(work)``, the figures, and ``picture(work)``, a clip made with seed 0. Its name is the
method's. Those of editing systems have ``editing(work)`` too, their rows in the table of editing systems.
"""
