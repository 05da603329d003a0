"""`python -m vgen VERB key=value ...` is the same as `vgen VERB ...`; also where the package lies on a path
and is not installed."""

from vgen.app.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
