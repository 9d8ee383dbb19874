"""A run where no terminal is: a line for each change, and nothing else."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from tracestill.launch.run.now import Now
from tracestill.launch.watch.rounds import Rounds
from tracestill.launch.watch.run import Seen
from tracestill.launch.watch.show import cut_off, diverges, mean_loss, number, own_texts, refresh, who
from tracestill.launch.watch.training import Training
from tracestill.trainer.metrics.headway import spell

QUIET_SECONDS = 30.0  # between two lines about one stage at work
NUMBERS = "numbers"  # the topic of the log's newest line

MOVES = re.compile(r"\d+(?:\.\d+)? ?(?:[smh]\b|%)")  # times and shares in a warning


class Plain:
    """Says what has changed since it was last asked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.said: dict[str, str] = {}  # topic -> its last line
        self.spoken: dict[str, float] = {}  # a stage at work -> when

    def lines(self, seen: Seen) -> list[str]:
        found = self.new("who", f"{seen.name}: {who(seen)}")
        if seen.rounds is not None:
            found += self.of_rounds(seen.rounds)
        for each in seen.finished:
            if each.stage != "train":  # which says so itself
                found += self.new(f"finished {each.label}", f"{each.label}: {each.summary}")
        for now in seen.now:
            found += self.at_work(now)
        for arm, training in seen.arms.items():
            for topic, text in told(training).items():
                left = f", {spell(training.left)} left" if topic == NUMBERS and training.left is not None else ""
                found += self.new(f"{arm} {topic}", f"{arm}: {text}", left)
            found += self.refreshing(arm, training)
        said = {f"{arm}: {training.state}: {training.why}" for arm, training in seen.arms.items()}  # above
        for text in (text for text in seen.warnings if text not in said):
            found += self.warning(text)
        for text in () if seen.rounds is None else seen.rounds.ending:
            found += self.new(f"round {text}", text)
        return found

    def of_rounds(self, rounds: Rounds) -> list[str]:
        """What is known of each round. When another one is at hand, its stages and arms have everything to say anew."""
        found = [line for name, what in rounds.told() for line in self.new(name, f"{name}: {what}")]
        if self.said.get("at hand") != rounds.head:
            kept = ("who", "round ", "warning ")
            self.said = {topic: line for topic, line in self.said.items() if topic.startswith(kept)}
            self.spoken = {topic: when for topic, when in self.spoken.items() if topic.startswith(kept)}
        return found + self.new("at hand", rounds.head)

    def warning(self, text: str) -> list[str]:
        """A warning, when it is new; where only a time or a share in it moves, now and then."""
        topic = f"warning {MOVES.sub('', text)}"
        last = self.spoken.get(topic)
        if last is not None and self.clock() - last < QUIET_SECONDS:
            return []
        if said := self.new(topic, f"warning: {text}"):
            self.spoken[topic] = self.clock()
        return said

    def new(self, topic: str, line: str, behind: str = "") -> list[str]:
        """The line, if it is another than the topic's last; what stands ``behind`` it is no reason to say it again."""
        if self.said.get(topic) == line:
            return []
        self.said[topic] = line
        return [(line + behind).replace("\n", " ")]

    def refreshing(self, arm: str, training: Training) -> list[str]:
        """That texts are being written, when it begins and now and then."""
        told, topic = refresh(training), f"{arm} refresh {(training.refreshing or {}).get('doing')}"
        last = self.spoken.get(topic)
        if not told:
            self.spoken = {each: when for each, when in self.spoken.items() if not each.startswith(f"{arm} refresh ")}
        elif last is None or self.clock() - last >= QUIET_SECONDS:
            self.spoken[topic] = self.clock()
            return self.new(topic, f"{arm}: refresh {told}")
        return []

    def at_work(self, now: Now) -> list[str]:
        topic = f"{now.label} {bool(now.total)}"  # how much there is may be known some time later: a line of its own
        last = self.spoken.get(topic)
        if last is not None and self.clock() - last < QUIET_SECONDS:
            return []
        self.spoken[topic] = self.clock()
        count = f"{now.done:,.0f} of {now.total:,.0f} {now.unit}".rstrip() if now.total else "at work"
        rate = "" if now.rate is None else f"{now.rate:,.1f}/s"
        left = "" if now.left is None else f"{spell(now.left)} left"
        return self.new(now.label, f"{now.label}: {', '.join(filter(None, (count, rate, left, now.note)))}")


def told(training: Training) -> dict[str, str]:
    """Topic -> what there is to say of an arm."""
    found = {} if training.state == "waits" else {"state": training.state + f": {training.why}" * bool(training.why)}
    if (line := training.line) is not None:
        rows = {kind: row for kind, row in line["kinds"].items() if row.get("loss") is not None}
        kinds = [f"{kind} {number(row, 'loss', '.4f')}{diverges(row)}" for kind, row in rows.items()]
        numbers = (
            f"step {line['step']}/{training.steps or '?'}, loss {number(line, 'loss', '.4f')}",
            *kinds,
            f"lr {number(line, 'lr', '.3g')}",
            f"gradient norm {number(line, 'grad_norm', '.3g')}",
            f"{number(line, 'tokens_per_second', ',.0f')} tokens/s",
            f"{number(line, 'memory_gib', '.2f')} GiB" if line.get("memory_gib") is not None else "",
        )
        found[NUMBERS] = ", ".join(filter(None, numbers))
    if texts := own_texts(training):
        found["own texts"] = f"own texts right {texts}, {number(training.own_texts, 'tokens_mean', ',.1f')} tokens"
    if (loss := mean_loss(training.held_out)) is not None:
        found["held out"] = f"held-out loss {loss:.4f} at step {(training.held_out or {})['step']}"
    if (answers := training.answers) is not None:
        cut = f", {cut_off(answers)} cut off" if cut_off(answers) else ""
        found["answers"] = f"{answers['accuracy']:.1%} right at step {answers['step']}{cut}"
    return found
