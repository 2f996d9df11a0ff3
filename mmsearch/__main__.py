"""`python -m mmsearch`: the same as the command `mmsearch`."""

from mmsearch.cli.app import main

if __name__ == "__main__":
    main()
