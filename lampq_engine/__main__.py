"""`python -m lampq_engine COMMAND`: every button of the dashboard, and a few more, from the command line."""

from lampq_engine.commands import main

if __name__ == "__main__":
    raise SystemExit(main())
