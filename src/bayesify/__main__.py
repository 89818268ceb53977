"""`python -m bayesify` is `bayesify`."""

from bayesify.cli import main

if __name__ == "__main__":
    main()
