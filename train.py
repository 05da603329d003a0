"""`python train.py key=value ...` is the same as `vgen train key=value ...`."""

from vgen.app.cli import run

if __name__ == "__main__":
    raise SystemExit(run("train"))
