"""What a server has done so far: counts and times, as Prometheus reads them."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np

LAST = 2_000
"""Requests whose times the quantiles are of."""


@dataclass
class Tally:
    """Counts since the start; of times the last `LAST`."""

    requests: Counter[int] = field(default_factory=Counter)  # by status
    decisions: Counter[str] = field(default_factory=Counter)  # by kind
    waiting: int = 0  # images that are being decided, or wait for it
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=LAST))

    def text(self) -> str:
        """In Prometheus' text format (version 0.0.4)."""
        lines = ["# TYPE levelhead_requests_total counter"]
        lines += [
            f'levelhead_requests_total{{code="{code}"}} {n}'
            for code, n in sorted(self.requests.items())
        ]
        lines.append("# TYPE levelhead_decisions_total counter")
        lines += [
            f'levelhead_decisions_total{{kind="{kind}"}} {n}'
            for kind, n in sorted(self.decisions.items())
        ]
        lines += ["# TYPE levelhead_waiting gauge", f"levelhead_waiting {self.waiting}"]
        lines.append("# TYPE levelhead_seconds gauge")
        if self.seconds:
            for q in (0.5, 0.99):
                value = float(np.quantile(np.array(self.seconds), q))
                lines.append(f'levelhead_seconds{{quantile="{q}"}} {value:.6f}')
        return "\n".join(lines) + "\n"
