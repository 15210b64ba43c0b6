"""Order processing with retries, dead letters and redrive: every order ends in exactly one state.

    python examples/orders.py [DIRECTORY]

Nine orders of four customers; `group=customer` keeps each customer's orders in order. Two worker
processes take the payments. A bank that does not answer is tried again after a backoff, an expired
card is rejected at once, and a bug lands in the dead letters after four failures, with its
traceback. The operator looks at the dead letters, deploys version 2 and redrives what the bug had
stopped.

Prints:

    order 1 was sent twice and stored once
    order 9 cancelled: True

    version 1 at work: 5 paid, 3 dead
    each customer's orders were paid in order: True
    order 2 cancelled: False, it is paid

    dead letters
    order  customer  reason          error                                 failures
        4  bob       max_deliveries  ZeroDivisionError: division by zero          4
        6  cem       rejected        card expired                                 0
        8  dee       max_deliveries  ZeroDivisionError: division by zero          4

    Traceback (most recent call last):
    ...
    ZeroDivisionError: division by zero

    version 2 at work: 2 redriven, 7 paid, 1 dead
    order  customer  item     state
        1  ann       teapot   paid at attempt 1
        2  ann       cups     paid at attempt 3
        3  ann       tea      paid at attempt 1
        4  bob       kettle   paid at attempt 1
        5  bob       spoons   paid at attempt 1
        6  cem       samovar  dead: card expired
        7  cem       sugar    paid at attempt 1
        8  dee       tray     paid at attempt 3
        9  dee       trivet   cancelled
    every order is in exactly one state: True
"""

import contextlib
import multiprocessing
import sys
import tempfile
from multiprocessing.process import BaseProcess
from typing import Any

import mqlite

Order = dict[str, Any]

ORDERS: list[Order] = [
    {"number": 1, "customer": "ann", "item": "teapot", "price": 30, "instalments": 1, "card": "good"},
    {"number": 2, "customer": "ann", "item": "cups", "price": 24, "instalments": 2, "card": "slow bank"},
    {"number": 3, "customer": "ann", "item": "tea", "price": 9, "instalments": 1, "card": "good"},
    {"number": 4, "customer": "bob", "item": "kettle", "price": 45, "instalments": 0, "card": "good"},
    {"number": 5, "customer": "bob", "item": "spoons", "price": 8, "instalments": 1, "card": "good"},
    {"number": 6, "customer": "cem", "item": "samovar", "price": 120, "instalments": 1, "card": "expired"},
    {"number": 7, "customer": "cem", "item": "sugar", "price": 4, "instalments": 1, "card": "good"},
    {"number": 8, "customer": "dee", "item": "tray", "price": 18, "instalments": 0, "card": "slow bank"},
    {"number": 9, "customer": "dee", "item": "trivet", "price": 7, "instalments": 1, "card": "good"},
]


class Declined(Exception):
    """The bank says no, and will say no again."""


def charge(order: Order, attempt: int, version: int) -> float:
    """Take the first instalment, as unreliable as in real life; returns its amount."""
    if order["card"] == "expired":
        raise Declined("card expired")
    if order["card"] == "slow bank" and attempt < 3:
        raise TimeoutError("the bank does not answer")
    instalments = order["instalments"]
    if version == 2:  # the fix: 0 means all at once
        instalments = instalments or 1
    return float(order["price"] / instalments)


def work(orders: mqlite.Queue[Order], paid: mqlite.Queue[Order], version: int) -> None:
    """A worker process: take the payment for one order after the other."""
    with orders.consumer() as consumer:
        for message in consumer:
            attempt = message.delivery_count + 1
            with contextlib.suppress(Exception), message:  # ack at the end of the block, nack on an exception
                try:
                    amount = charge(message.body, attempt, version)
                except Declined as error:
                    message.reject(str(error))  # no retry would help
                else:  # stored once, also if this worker dies before the ack and another one does it again
                    headers = {"amount": amount, "attempt": attempt}
                    paid.put(message.body, headers=headers, dedup_id=str(message.id))


def start_workers(*args: Any) -> list[BaseProcess]:
    """Two worker processes."""
    context = multiprocessing.get_context("spawn")
    workers: list[BaseProcess] = [context.Process(target=work, args=args, daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    return workers


def stop_workers(workers: list[BaseProcess]) -> None:
    """Safe at any moment: an order that a worker holds when it dies goes back to the queue."""
    for worker in workers:
        worker.terminate()
        worker.join()


def in_order(payments: list[mqlite.Message]) -> bool:
    """Whether each customer's orders were paid in the order in which they came."""
    numbers: dict[str, list[int]] = {}
    for payment in payments:
        numbers.setdefault(payment.body["customer"], []).append(payment.body["number"])
    return all(found == sorted(found) for found in numbers.values())


def death_of(letter: mqlite.Message) -> mqlite.Death:
    """Why it is a dead letter."""
    assert letter.death is not None
    return letter.death


def main(path: str) -> int:
    orders: mqlite.Queue[Order] = mqlite.Queue(
        "orders",
        path,
        max_deliveries=4,
        backoff=mqlite.Backoff(base=0.05, factor=2, maximum=1, jitter=0.5),  # seconds; small, as nobody is waiting here
    )
    paid: mqlite.Queue[Order] = mqlite.Queue("paid", path)  # stands for the next step, the shipping
    if len(orders) or len(orders.dead) or len(paid):
        sys.exit(f"{path} has orders of an earlier run: name another directory")

    ids = {}
    for order in ORDERS:
        ids[order["number"]] = orders.put(order, group=order["customer"], dedup_id=f"order {order['number']}")
    again = orders.put(ORDERS[0], group="ann", dedup_id="order 1")  # the client got no answer, and tries again
    print(f"order 1 was sent twice and stored {'once' if again == ids[1] else 'twice'}")
    cancelled = orders.cancel(ids[9])
    print(f"order 9 cancelled: {cancelled}\n")

    workers = start_workers(orders, paid, 1)
    orders.join()  # all are settled, also those that had to wait for their retry
    stop_workers(workers)
    print(f"version 1 at work: {len(paid)} paid, {len(orders.dead)} dead")
    ordered = in_order(list(paid.browse()))
    print(f"each customer's orders were paid in order: {ordered}")
    print(f"order 2 cancelled: {orders.cancel(ids[2])}, it is paid\n")

    print(f"dead letters\norder  customer  reason          {'error':36}  failures")
    letters = sorted(orders.dead.browse(), key=lambda letter: letter.id)  # they lie in the order of their deaths
    for letter in letters:
        number, customer, death = letter.body["number"], letter.body["customer"], death_of(letter)
        print(f"{number:5}  {customer:8}  {death.reason:14}  {death.error:36}  {death.delivery_count:8}")
    print(f"\n{death_of(letters[0]).traceback}")

    workers = start_workers(orders, paid, 2)
    count = orders.redrive(lambda letter: death_of(letter).reason == "max_deliveries")
    orders.join()
    stop_workers(workers)
    print(f"version 2 at work: {count} redriven, {len(paid)} paid, {len(orders.dead)} dead")

    states: dict[int, list[str]] = {order["number"]: [] for order in ORDERS}
    if cancelled:
        states[9].append("cancelled")
    for payment in paid.browse():
        states[payment.body["number"]].append(f"paid at attempt {payment.headers['attempt']}")
    for letter in orders.dead.browse():
        states[letter.body["number"]].append(f"dead: {death_of(letter).error}")
    print("order  customer  item     state")
    for order in ORDERS:
        print(f"{order['number']:5}  {order['customer']:8}  {order['item']:7}  {' and '.join(states[order['number']])}")
    exactly_one = all(len(found) == 1 for found in states.values())
    print(f"every order is in exactly one state: {exactly_one}")
    return 0 if ordered and exactly_one else 1


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(main(sys.argv[1]))
    with tempfile.TemporaryDirectory() as directory:
        sys.exit(main(directory))
