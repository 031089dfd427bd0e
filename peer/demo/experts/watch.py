"""A peer of a run with domains, as its `events.jsonl` tells."""

from pathlib import Path

from peer.demo.watch import Event, PeerView
from protocol.card import Card, Kept

_NEWS = ("domain_chosen", "joined", "domain_left", "domain_done")


class MemberView(PeerView):
    """See the module docstring.

    Attributes:
        domain: Where it trains, or is about to; empty while that is nowhere.
        is_training: Whether it has come there.
        kept: By domain, the newest state that it keeps.
        news: What it did that people should be told; whoever tells takes it away.
    """

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name, path)
        self.phase = "starts, and looks for a domain"
        self.domain = ""
        self.is_training = False
        self.kept: dict[str, Kept] = {}
        self.news: list[Event] = []

    def card(self) -> Card:
        """Returns what it would tell others of itself."""
        return Card(
            wire_addresses=(),
            role="peer" if self.is_training else "coming",
            step=self.step,
            domain=self.domain,
            kept=tuple(self.kept.values()),
        )

    def has_final(self, domain: str) -> bool:
        """Whether it keeps the domain's last state."""
        return domain in self.kept and self.kept[domain].is_final

    def _take(self, event: Event) -> None:
        super()._take(event)
        if event["event"] in _NEWS:
            self.news.append(event)
        match event["event"]:
            case "domain_chosen":
                self.domain, self.is_training, self.newest = event["domain"], False, {}
                self.phase = "loads text and model"
            case "joined":
                self.is_training, self.newest = True, {"step": event["step"]}
                self.phase = "trains"
            case "exchange_begins":
                others = len(event.get("partners", ())) - 1
                self.phase = f"trains, averages with {others}" if others > 0 else "trains"
            case "domain_copied":
                self._keep(event, event["of"], is_final=event["is_final"])
            case "domain_done":
                self._keep(event, event["domain"], is_final=True)
            case "left":
                self.domain, self.is_training, self.newest = "", False, {}
                self.phase = "trains nowhere, keeps and gives experts"
            case _:
                pass

    def _keep(self, event: Event, domain: str, *, is_final: bool) -> None:
        self.kept[domain] = Kept(domain, event["round"], event["step"], is_final)
