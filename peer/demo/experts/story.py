"""What happens in a play with domains and what is waited for, in words."""

from peer.demo.experts.play import Play
from peer.demo.experts.script import KILL_AT_FRAC
from peer.demo.watch import Event
from peer.presence import CARD_LIFETIME_S
from protocol.manifest import Manifest


def division_of(manifest: Manifest) -> str:
    """Returns what each domain gets, for people."""
    shares = [
        f"{domain.name} {domain.inner.total_steps} of {domain.model.layers} x {domain.model.dim}"
        for domain in manifest.domains
    ]
    return ", ".join(shares)


def now_and_coming(play: Play, elapsed_s: float) -> tuple[str, str]:
    """Returns what happens, and what is waited for."""
    if play.kill is None:
        return _before(play)
    if play.rescue() is None:
        return _after(play, elapsed_s)
    if all(standing.is_done for standing in play.standings):
        return (
            "every domain is done; each peer fetches the experts that it lacks",
            "everyone leaves, and the experts are measured on held-out text",
        )
    return (
        "the domains train on; who is done goes where most is left to do",
        "every domain reaches its budget, and every peer gets every expert",
    )


def _before(play: Play) -> tuple[str, str]:
    coming = (
        f"a domain with a single peer gets to {KILL_AT_FRAC:.0%}, others copy its state, "
        "and that peer is killed"
    )
    if not all(view.all("joined") for view in play.peers.values()):
        return "peers find their domains, and load text and model", coming
    return "each domain trains by itself; experts need not talk to each other", coming


def _after(play: Play, elapsed_s: float) -> tuple[str, str]:
    assert play.kill is not None
    domain, dead = play.kill.domain, play.kill.peer
    on_the_way = [name for name, view in play.survivors.items() if view.domain == domain]
    if on_the_way:
        return (
            f"{on_the_way[0]} comes to {domain}",
            f"it goes on from the copy of step {play.kill.copy_step}",
        )
    left_s = play.kill.elapsed_s + CARD_LIFETIME_S - elapsed_s
    card = f"expires in about {left_s:.0f} s" if left_s > 0 else "has expired"
    return (
        f"{domain} has nobody, but the others keep a copy of step {play.kill.copy_step}",
        f"{dead}'s card {card}; then a peer that can be spared goes to {domain}",
    )


def news_of(play: Play, name: str, event: Event) -> tuple[str, str]:
    """Returns what a peer did as a sentence, and the style for it; empty if it is nothing new."""
    domain = event.get("domain", "")
    match event["event"]:
        case "domain_left":
            return f"{name} leaves {domain} for {event['to']}, which has nobody", ""
        case "domain_chosen":
            view = play.peers[name]
            if any(left["to"] == domain for left in view.all("domain_left")[-1:]):
                return "", ""  # it said so when it left
            is_first = view.all("domain_chosen")[0] is event
            return f"{name} {'chose' if is_first else 'goes to'} {domain}", ""
        case "joined" if event["step"]:
            rescue = play.rescue()
            if rescue and (rescue.peer, rescue.step) == (name, event["step"]):
                return f"{name} takes {domain} over, from step {event['step']}", "bold"
            return f"{name} helps in {domain}, from step {event['step']}", ""
        case "domain_done" if not any(
            view.all("domain_done") and _was_before(view.all("domain_done"), event)
            for view in play.peers.values()
        ):
            return f"{domain} has reached its budget of {event['step']} steps", "green"
        case _:
            return "", ""


def _was_before(events: list[Event], event: Event) -> bool:
    return any(
        other["domain"] == event["domain"] and other["t_unix_s"] < event["t_unix_s"]
        for other in events
    )
