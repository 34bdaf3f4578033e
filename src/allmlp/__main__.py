"""`python -m allmlp` is the command line."""

from allmlp.cli import main

if __name__ == "__main__":
    main()
