"""Every kind of machine through one suite: cases.py has the cases, kind.py what a kind tells of itself, a table comes last."""
