"""Runs inside a sandbox: what a pack's check scripts may build on, instead of reading stdin and printing.

from sandgate_check import Check, Weighted

class Written(Check):
    gate = True
    def score(self):
        return (self.workspace / "report.md").exists()

class Long(Check):
    weight = 2.0
    def score(self):
        lines = len((self.workspace / "report.md").read_text().splitlines())
        return min(1.0, lines / 10), f"{lines} lines of 10"

class Report(Weighted):
    parts = (Written, Long)

Report.run()
"""

import json
import sys
from pathlib import Path


class Check:
    """One question about what an episode left. A subclass says what it is worth by `score`.

    `workspace` is the folder of the final files, which cannot be written; `episode` what is known of the
    episode: task, seed, answer, steps, denials and `answered`, by tool. In a rubric of checks `weight`
    says how much it counts, and `gate` that nothing counts unless it scores 1.
    """

    weight = 1.0
    gate = False

    def __init__(self, workspace, episode):
        self.workspace = workspace
        self.episode = episode

    def score(self):
        """Return a number in [0, 1], true or false, or a pair of that and a line that says why."""
        raise TypeError(f"{type(self).__name__} has no method 'score': a check says by it what it is worth")

    def found(self):
        """Return the score as a number, and the line."""
        said = self.score()
        score, detail = said if isinstance(said, tuple) else (said, "")
        return float(score), str(detail)

    @classmethod
    def run(cls):
        """Score the episode that this script was started for, and say so to whoever started it."""
        score, detail = cls(Path.cwd(), json.loads(sys.stdin.readline())).found()
        sys.stdout.write(json.dumps({"score": score, "detail": detail}) + "\n")


class Weighted(Check):
    """A rubric of checks, its `parts`: their weighted mean, 0 if one of its gates does not score 1."""

    parts = ()

    def score(self):
        """Return the mean, and what those that did not score 1 say."""
        scored = [(part, *part(self.workspace, self.episode).found()) for part in self.parts]
        told = "; ".join(f"{part.__name__}: {detail or score}" for part, score, detail in scored if score < 1)
        if any(part.gate and score < 1 for part, score, _ in scored):
            return 0.0, told
        return self.mean([(part.weight, score) for part, score, _ in scored if not part.gate]), told

    def mean(self, scored):
        """Return the mean of (weight, score) pairs."""
        total = sum(weight for weight, _ in scored)
        return sum(weight * score for weight, score in scored) / total if scored else 1.0


class Sequential(Weighted):
    """A rubric of checks in which each counts only while all before it scored 1."""

    def mean(self, scored):
        """Return the mean, with nothing for what comes after the first that did not score 1."""
        counted, so_far = [], 1.0
        for weight, score in scored:
            counted.append((weight, score if so_far == 1.0 else 0.0))
            so_far = min(so_far, score)
        return super().mean(counted)
