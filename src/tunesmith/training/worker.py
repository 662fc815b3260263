"""One of the processes of `train_in_processes`: `python -m tunesmith.training.worker SPEC start|resume PIPE`."""

import os
import sys
from pathlib import Path

from tunesmith.errors import TunesmithError
from tunesmith.spec import load_spec
from tunesmith.training import ranks
from tunesmith.training.messages import Failed, Finished, Message, encode
from tunesmith.training.run import train


def main(spec_file: str, how: str, pipe: str) -> int:
    """Train, and say through the pipe what happens; the exit code."""

    def tell(message: Message) -> None:
        os.write(int(pipe), encode(message))

    try:
        result = train(load_spec(Path(spec_file)), resume=how == "resume", observer=tell)
    except ranks.RankLostError:
        return 1  # whoever started this process knows which one is gone
    except TunesmithError as error:
        tell(Failed(type(error).__name__, str(error)))
        return 2
    if ranks.is_main():
        tell(Finished.of(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
