"""A durable queue in a minute: put, priorities, acknowledge, fail, retry, dead letters.

    python examples/quickstart.py [DIRECTORY]

Prints:

    1. pay
    2. mail
    3. mail
    4. mail
    5. tidy up
    left: 0, dead: mail after 3 deliveries: ConnectionError: no mail server
"""

import contextlib
import sys
import tempfile

import mqlite


def main(path: str) -> None:
    queue: mqlite.Queue[dict[str, str]] = mqlite.Queue("tasks", path, max_deliveries=3)  # a directory, made if missing
    queue.put({"task": "mail"})
    queue.put({"task": "tidy up"}, priority=-1)
    queue.put({"task": "pay"}, priority=5)  # higher first; on disk when put returns
    queue.close()

    queue = mqlite.Queue("tasks", path)  # now or tomorrow, in this process or another
    with queue.consumer() as consumer:
        for turn in range(1, 6):
            message = consumer.receive(timeout=5)
            with contextlib.suppress(ConnectionError), message:  # ack at the end of the block, nack on an exception
                print(f"{turn}. {message.body['task']}")
                if message.body["task"] == "mail":
                    raise ConnectionError("no mail server")

    [dead] = queue.dead.peek()
    assert dead.death is not None
    print(f"left: {len(queue)}, dead: {dead.body['task']} after {dead.delivery_count} deliveries: {dead.death.error}")
    queue.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as directory:
            main(directory)
