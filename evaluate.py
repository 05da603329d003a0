"""`python evaluate.py key=value ...` is the same as `vgen evaluate key=value ...`."""

from vgen.app.cli import run

if __name__ == "__main__":
    raise SystemExit(run("evaluate"))
