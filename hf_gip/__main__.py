"""`python -m hf_gip` is `hf-gip`."""

from hf_gip.cli.app import main

if __name__ == "__main__":
    main()
