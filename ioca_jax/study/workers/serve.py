"""What a local worker runs: calls come on its input, results go to its output."""

import os
import pickle


def main() -> None:
    """Answers calls until the input ends."""
    # What is printed must not get between the results.
    calls, results = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    while True:
        try:
            function, args, kwargs = pickle.load(calls)
        except EOFError:
            return
        try:
            answer = True, function(*args, **kwargs)
        except Exception as error:
            answer = False, error
        try:
            pickle.dump(answer, results)
            results.flush()
        except BrokenPipeError:  # the driver has died
            os._exit(0)


if __name__ == "__main__":
    main()
