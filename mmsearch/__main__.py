"""The command `mmsearch`, also as `python -m mmsearch`."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C ends it in one line even while modules are being imported."""
    try:
        from mmsearch.cli.app import main as run_command

        run_command()
    except KeyboardInterrupt:
        sys.stderr.write("mmsearch: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
