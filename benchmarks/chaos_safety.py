"""Nothing is applied twice, nothing is lost, and equal rounds have equal anchors."""

import itertools
from collections import Counter, defaultdict

from benchmarks.chaos_finding import AFTER_FORK, Finding, since_begin_s
from benchmarks.chaos_history import Event, History, Life
from benchmarks.chaos_plan import Plan

WAITING_INTERVALS = 4
"""What was trained in so many intervals may be in no average yet."""


def contributed_once(history: History, plan: Plan) -> Finding:
    """A peer's work is in an average once; within one life nothing lands twice at all."""
    finding = Finding()
    for seat in history.seats:
        with_ours: Counter[tuple[int, str]] = Counter()
        for life in history.lives(seat):
            landed: Counter[tuple[int, str]] = Counter()
            for event in life.named("landed"):
                key = event["fragment"], event["exchange_id"]
                landed[key] += 1
                with_ours[key] += bool(event["contributed"])
                finding.checked += 1
                if landed[key] > 1:
                    finding.against(
                        seat, since_begin_s(history, event), f"{key[1][:8]} landed twice"
                    )
                elif with_ours[key] > 1 and event["contributed"]:
                    finding.against(
                        seat, since_begin_s(history, event), f"contributed to {key[1][:8]} twice"
                    )
    return finding


def nothing_again(history: History, plan: Plan) -> Finding:
    """What a checkpoint has in it is not applied again by whoever resumes from it."""
    finding = Finding()
    for seat in history.seats:
        landed: dict[tuple[int, str], int] = {}
        for life in history.lives(seat):
            is_resumed = life.events[0]["donor"] is None and bool(landed)
            held = life.events[0]["round"]
            for event in life.named("landed"):
                key = event["fragment"], event["exchange_id"]
                finding.checked += is_resumed
                if is_resumed and landed.get(key, held + 1) <= held:
                    words = f"{key[1][:8]} again, which its checkpoint of round {held} has"
                    finding.against(seat, since_begin_s(history, event), words)
                landed[key] = event["round"]
    return finding


def rounds_rise(history: History, plan: Plan) -> Finding:
    """Within a life the rounds of a fragment rise, unless it takes over another camp's anchor."""
    finding = Finding()
    for seat in history.seats:
        for life in history.lives(seat):
            reached: dict[int, int] = {}
            may_fall: set[int] = set()
            for event in life.named("landed", *AFTER_FORK):
                fragment = event.get("fragment", 0)
                if "round" not in event or event["event"] not in ("landed", "caught_up", "merged"):
                    may_fall.add(fragment)
                    continue
                finding.checked += 1
                last, now = reached.get(fragment, -1), event["round"]
                if now <= last and (event["event"] == "landed" or fragment not in may_fall):
                    words = f"{event['event']} round {now} of fragment {fragment} after {last}"
                    finding.against(seat, since_begin_s(history, event), words)
                reached[fragment] = now
                may_fall.discard(fragment)
    return finding


def one_anchor(history: History, plan: Plan) -> Finding:
    """With mixing `all`, equal rounds have equal digests; a fork is told of, and ends."""
    finding = Finding(facts={"forks": 0})
    if plan.mixing != "all":
        return finding
    camps: dict[tuple[int, int], dict[str, list[tuple[Life, Event]]]] = defaultdict(dict)
    for seat in history.seats:
        for life in history.lives(seat):
            for event in life.named("landed"):
                key = event["fragment"], event["round"]
                camps[key].setdefault(event["digest"], []).append((life, event))
                finding.checked += 1
    for (fragment, round), by_digest in sorted(camps.items()):
        if len(by_digest) < 2:
            continue
        finding.facts["forks"] += 1
        silent = [
            {life.seat for life, event in landers if not _tells_of_fork(life, event)}
            for landers in by_digest.values()
        ]
        if sum(bool(seats) for seats in silent) > 1:  # two camps that went on as if nothing were
            event = next(iter(by_digest.values()))[0][1]
            words = (
                f"fragment {fragment} has {len(by_digest)} anchors in round {round}, told by none"
            )
            finding.against(
                " ".join(sorted(set.union(*silent))), since_begin_s(history, event), words
            )
    return finding


def tokens_add_up(history: History, plan: Plan) -> Finding:
    """Each step adds its tokens, and each token trained is in an average, or waits for the next."""
    finding = Finding(facts={"lives_accounted_for": 0})
    for seat in history.seats:
        for life in history.lives(seat):
            reports = life.named("progress")
            for before, after in itertools.pairwise(reports):
                finding.checked += 1
                steps, tokens = (after[name] - before[name] for name in ("step", "tokens"))
                if steps < 0 or tokens != steps * plan.step_tokens:
                    words = f"{tokens} tokens in {steps} steps of {plan.step_tokens}"
                    finding.against(seat, since_begin_s(history, after), words)
            if len(reports) > 1 and "contributed_tokens" in reports[0]:
                _account_for(finding, life, history, plan)
    return finding


def _account_for(finding: Finding, life: Life, history: History, plan: Plan) -> None:
    """What a peer has contributed is what it has trained, but for what may still wait."""
    first, last = life.named("progress")[0], life.named("progress")[-1]
    finding.facts["lives_accounted_for"] += 1
    contributed = (last["contributed_tokens"] - first["contributed_tokens"]) / plan.num_fragments
    trained = last["tokens"] - first["tokens"]
    # What waited at the first report may be in it, too; of a new peer that is known.
    is_new = life.events[0]["donor"] is not None or life.number == 1
    if is_new and contributed > trained + first["tokens"]:
        words = f"contributed {contributed:.0f} tokens, and trained {trained + first['tokens']}"
        finding.against(life.seat, since_begin_s(history, last), words)
    may_wait = WAITING_INTERVALS * plan.interval_steps * plan.step_tokens
    if life.is_last and trained - contributed > may_wait:
        words = f"trained {trained} tokens, and contributed {contributed:.0f}, when all is calm"
        finding.against(life.seat, since_begin_s(history, last), words)


def _tells_of_fork(life: Life, landed: Event) -> bool:
    """Whether a peer finds out after a landing that its anchor is not the others', or ends."""
    found_out = any(event["t_mono_s"] > landed["t_mono_s"] for event in life.named(*AFTER_FORK))
    has_ended = not life.is_last and not any(
        event["t_mono_s"] > landed["t_mono_s"] and event["round"] > landed["round"] + 1
        for event in life.named("landed")
    )
    return found_out or has_ended
