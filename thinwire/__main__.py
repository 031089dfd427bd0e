"""The command `thinwire`."""

import sys


def main() -> None:
    """Runs the command; an operator's mistake gets one line and exit code 2."""
    try:
        _run()
    except KeyboardInterrupt:
        sys.exit(130)


def _run() -> None:
    from protocol.errors import ConfigError, ThinwireError
    from thinwire.commands import app  # half a second, in which Ctrl-C may come, too

    try:
        app()
    except ConfigError as error:
        print(f"thinwire: {error}", file=sys.stderr)
        sys.exit(2)
    except ThinwireError as error:
        print(f"thinwire: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
