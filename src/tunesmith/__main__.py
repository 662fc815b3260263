"""`python -m tunesmith`, for launchers that start modules: `torchrun --nproc-per-node 2 -m tunesmith train R.yaml`."""

from tunesmith.cli.main import main

if __name__ == "__main__":
    main()
