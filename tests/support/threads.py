"""Python threads that begin together."""

import threading


def together(*works):
    """Run these in threads of their own; the first error of one is raised."""
    errors, barrier = [], threading.Barrier(len(works))

    def run(work):
        try:
            barrier.wait()
            work()
        except BaseException as error:
            errors.append(error)

    others = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    if errors:
        raise errors[0]
