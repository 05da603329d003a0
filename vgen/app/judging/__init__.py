"""Judging: what is drawn or edited for a suite, its scores, and the pages and tables that show them."""
