"""The number of threads is chosen on the work itself."""

import torch
from tiny_export import tiny_model

from tracestill.trainer.ranks import threads
from tracestill.trainer.ranks.threads import ThreadChoice, choice_for, threads_kept
from tracestill.trainer.writing.decoding import Decoder
from tracestill.trainer.writing.generate import generate

BOS, EOS, PAD, LIMIT = 1, 2, 0, 24


class Machine:
    """Work that takes as long as ``cost`` says of its threads and its turn."""

    def __init__(self, cost):
        self.cost, self.now, self.used = cost, 0.0, []

    def use(self, number):
        self.used.append(number)

    def work(self, choice, pieces, units=1.0):
        for _ in range(pieces):
            choice.begin()
            self.now += self.cost(self.used[-1], len(self.used)) * units
            choice.lap(units)


def chosen(cost, candidates, pieces, units=1.0, **more):
    machine = Machine(cost)
    choice = ThreadChoice(candidates, clock=lambda: machine.now, use=machine.use, **more)
    machine.work(choice, pieces, units)
    return choice, machine


def test_the_fastest_wins_and_stays():
    choice, machine = chosen(lambda n, turn: {1: 4.0, 2: 2.0, 4: 3.0}[n], [4, 1, 2], 40)
    assert choice.chosen == 2
    assert machine.used[:12] == [1, 2, 4] * 4
    assert machine.used[12:] == [2], "it is set once"


def test_what_is_hopeless_is_tried_twice():
    choice, machine = chosen(lambda n, turn: {1: 1.0, 2: 40.0}[n], [1, 2], 40)
    assert choice.chosen == 1
    assert machine.used == [1, 2, 1, 2, 1, 1, 1]
    assert machine.now == 2 * 40.0 + 38.0
    late = chosen(lambda n, turn: 9.0 if n == 2 and turn == 4 else 3.0 / n, [1, 2], 40)[0]
    assert late.chosen == 1, "one slow piece counts, with the others"
    assert chosen(lambda n, turn: 9.0 if n == 2 and turn == 2 else 3.0 / n, [1, 2], 40)[0].chosen == 2, "warming up"


def test_the_first_round_warms_up():
    assert chosen(lambda n, turn: 100.0 if turn == 1 else float(n), [1, 2], 40)[0].chosen == 1


def test_of_what_is_nearly_as_fast_the_fewest_threads_are_taken():
    assert chosen(lambda n, turn: 1.0 if n == 1 else 0.97, [1, 2], 40)[0].chosen == 1
    assert chosen(lambda n, turn: 1.0 if n == 1 else 0.90, [1, 2], 40)[0].chosen == 2


def test_pieces_count_by_their_size():
    machine = Machine(lambda n, turn: float(n))
    choice = ThreadChoice([1, 2], clock=lambda: machine.now, use=machine.use, rounds=1)
    machine.work(choice, 1, units=8000.0)
    machine.work(choice, 1, units=10.0)
    assert choice.chosen == 1, "the larger piece took longer, a unit of it did not"


def test_work_that_ends_too_soon_leaves_all_cores():
    assert chosen(lambda n, turn: 1.0, [1, 2, 4], 2)[0].chosen == 4


def test_what_is_tried(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with threads_kept():
        for cores, expected in ((1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16])):
            monkeypatch.setattr(threads, "usable_cores", lambda cores=cores: cores)
            assert choice_for(torch.device("cpu")).candidates == expected
    assert choice_for(torch.device("cuda")) is None
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert choice_for(torch.device("cpu")) is None


def test_threads_are_as_before_afterwards():
    before = torch.get_num_threads()
    with threads_kept():
        torch.set_num_threads(before + 1)
    assert torch.get_num_threads() == before


def test_answers_are_the_same_and_every_token_but_the_first_is_a_piece_of_work(monkeypatch):
    model, prompts = tiny_model(seed=3), [[BOS, *range(3, 3 + length)] for length in range(9)]
    settings = {"stops": [EOS], "pad_id": PAD, "max_new_tokens": LIMIT, "batch_size": 4}
    with threads_kept():
        laps = []
        choice = ThreadChoice([1, 2])
        plain = choice.lap
        choice.lap = lambda units=1.0: (laps.append(torch.get_num_threads()), plain(units))
        steps, step = [], Decoder.step
        monkeypatch.setattr(Decoder, "step", lambda *given: (steps.append(1), step(*given)))
        found = generate(model, prompts, threads=choice, **settings)
    monkeypatch.undo()
    assert found == generate(model, prompts, **settings)
    assert set(laps[:8]) == {1, 2}
    assert set(laps[8:]) <= {choice.chosen}
    assert len(laps) == len(steps), "the first token of a text comes with reading its prompt"
