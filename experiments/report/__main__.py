"""The command of the results: `python -m experiments.report`."""

from experiments.report.main import main

if __name__ == "__main__":
    main()
