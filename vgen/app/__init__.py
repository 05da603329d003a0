"""The surface: the command line, Hydra, wiring and reports. Nothing below imports from here."""
