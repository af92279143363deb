"""`python -m resnetlab` is `resnetlab`."""

from resnetlab.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
