"""A view from cards and reports."""

import json
from typing import Any

import pytest

from peer.watch.assemble import SHOWN_EXCHANGES_S, exchanges_in, view_of
from peer.watch.heard import FRESH_S, LASTING_S
from peer.watch.parameters import count_parameters
from peer.watch.view import PeerView, SwarmView, as_data
from protocol.card import Card, Kept
from protocol.identity import PeerId
from protocol.report import Tie, Waiting
from tests.unit.peer.watch.swarms import (
    NOW_UNIX_S,
    A,
    B,
    C,
    D,
    card_of,
    exchanged,
    heard,
    manifest_of,
    report_of,
    saw,
    used,
)


def seen(
    cards: dict[PeerId, Card],
    reports: Any = None,
    *,
    mixing: str = "all",
    now_unix_s: float = NOW_UNIX_S,
    **settings: Any,
) -> tuple[SwarmView, dict[str, PeerView]]:
    view = view_of(manifest_of(mixing, **settings), cards, reports or {}, now_unix_s=now_unix_s)
    return view, {peer.peer_id: peer for peer in view.peers}


def test_a_peer_that_gives_no_report_is_known_by_its_card_alone() -> None:
    card = card_of(step=40, round=2, tokens=500, up_bps=9, software="x/1", reach="reverse")
    view, peers = seen({A: card})
    peer = peers[A]
    assert (peer.step, peer.round, peer.tokens, peer.up_bps) == (40, 2, 500, 9)
    assert (peer.reach, peer.software, peer.has_report) == ("reverse", "x/1", False)
    assert (peer.loss_bits_per_byte, peer.contribution, peer.phase) == (None, None, "")
    assert (view.loss_bits_per_byte, view.utilisation_frac, view.tokens_per_s) == (None, None, 0)


def test_a_report_is_newer_than_the_card_unless_the_card_is_newer() -> None:
    reports = heard(report_of(A, step=50, round=3, tokens=600), report_of(B, step=1, round=1))
    _, peers = seen({A: card_of(step=40, round=2, tokens=500), B: card_of(step=40)}, reports)
    assert (peers[A].step, peers[A].round, peers[A].tokens) == (50, 3, 600)
    assert peers[B].step == 40


def test_sums_and_means_are_over_those_who_say_so() -> None:
    reports = heard(
        *(
            report_of(
                peer,
                tokens=tokens,
                tokens_per_s=speed,
                loss_bits_per_byte=loss,
                validation_bits_per_byte=validation,
                utilisation_frac=work,
                sent_bytes=10,
            )
            for peer, tokens, speed, loss, validation, work in (
                (A, 100, 30.0, 2.0, 3.0, 0.5),
                (B, 200, 10.0, 4.0, None, 1.0),
                (C, 300, 0.0, None, 1.0, None),
            )
        )
    )
    cards = {A: card_of(), B: card_of(round=7), C: card_of("holder"), D: card_of(tokens=1)}
    view, _ = seen(cards, reports)
    assert (view.num_training, view.round, view.tokens, view.sent_bytes) == (3, 7, 601, 30)
    assert (view.tokens_per_s, view.loss_bits_per_byte) == (40.0, 2.5)
    assert (view.validation_bits_per_byte, view.utilisation_frac) == (2.0, 0.75)


def test_a_loss_without_speed_is_a_plain_mean() -> None:
    reports = heard(report_of(A, loss_bits_per_byte=1.0), report_of(B, loss_bits_per_byte=2.0))
    view, _ = seen({A: card_of(), B: card_of()}, reports)
    assert view.loss_bits_per_byte == 1.5


def test_an_old_report_is_not_shown_and_neither_is_one_of_somebody_unknown() -> None:
    reports = heard(report_of(A, phase="training"), report_of(B, phase="training"))
    _, peers = seen({A: card_of()}, reports)
    assert set(peers) == {A}
    _, peers = seen({A: card_of()}, reports, now_unix_s=NOW_UNIX_S + LASTING_S)
    assert not peers[A].has_report
    _, peers = seen({A: card_of("left")}, reports)
    assert not peers[A].has_report


@pytest.mark.parametrize(("mixing", "tokens"), [("all", 300), ("pairs", 500), ("groups", 300)])
def test_what_is_attested_depends_on_who_could_see_it(mixing: str, tokens: int) -> None:
    reports = heard(
        report_of(A, contribution=used(1000)),
        report_of(B, witnesses=saw((A, 300))),
        report_of(C, witnesses=saw((A, 200))),
    )
    _, peers = seen({A: card_of(), B: card_of(), C: card_of()}, reports, mixing=mixing)
    assert (peers[A].attested_tokens, peers[A].attested_by) == (tokens, 2)


def test_nobody_is_attested_more_than_it_claims() -> None:
    reports = heard(report_of(A, contribution=used(50)), report_of(B, witnesses=saw((A, 300))))
    _, peers = seen({A: card_of(), B: card_of()}, reports)
    assert peers[A].attested_tokens == 50


# ---- who lags


def test_peers_are_behind_those_of_their_domain_alone() -> None:
    cards = {
        A: card_of(round=9, domain="law"),
        B: card_of(round=6, domain="law"),
        C: card_of(round=1, domain="math"),
        D: card_of("coming", domain="law"),
    }
    _, peers = seen(cards)
    assert [peers[peer].behind_rounds for peer in (A, B, C, D)] == [0, 3, 0, 0]


def test_one_who_claims_to_be_far_ahead_leaves_nobody_behind() -> None:
    cards = {A: card_of(round=1 << 50), B: card_of(round=9), C: card_of(round=9), D: card_of()}
    _, peers = seen(cards)
    assert [peers[peer].behind_rounds for peer in (A, B, C, D)] == [0, 0, 0, 9]


def test_a_card_is_older_than_a_report_and_not_compared_with_it() -> None:
    cards = {A: card_of(round=2), B: card_of(round=2), C: card_of(round=2), D: card_of(round=1)}
    reports = heard(report_of(A, round=9), report_of(B, round=8))
    _, peers = seen(cards, reports)
    assert [peers[peer].behind_rounds for peer in (A, B, C, D)] == [0, 1, 0, 1]


def test_a_report_that_is_not_fresh_says_nothing_of_now() -> None:
    cards = {A: card_of(round=9), B: card_of(round=9)}
    old = heard(report_of(A, round=4), at_unix_s=NOW_UNIX_S - FRESH_S - 1)
    _, peers = seen(cards, old | heard(report_of(B, round=9)))
    assert peers[A].has_report
    assert peers[A].behind_rounds == 0


# ---- exchanges


def test_an_exchange_that_both_tell_of_is_shown_once_and_two_are_two() -> None:
    reports = heard(
        report_of(A, exchanges=(exchanged([B], ago_s=20.0), exchanged([B], ago_s=8.0))),
        report_of(B, exchanges=(exchanged([A], ago_s=7.0), exchanged([C], ago_s=3.0))),
    )
    found = exchanges_in(reports, now_unix_s=NOW_UNIX_S)
    assert [(each.peer_id, each.partners, each.began_unix_s - NOW_UNIX_S) for each in found] == [
        (A, (B,), -20.0),
        (A, (B,), -8.0),
        (B, (C,), -3.0),
    ]


def test_rounds_may_be_shorter_than_the_clocks_are_wrong() -> None:
    reports = heard(
        report_of(A, exchanges=tuple(exchanged([B], ago_s=ago_s) for ago_s in (9.0, 7.0, 5.0))),
        report_of(B, exchanges=tuple(exchanged([A], ago_s=ago_s) for ago_s in (8.5, 6.5, 4.5))),
    )
    found = exchanges_in(reports, now_unix_s=NOW_UNIX_S)
    assert [each.began_unix_s - NOW_UNIX_S for each in found] == [-9.0, -7.0, -5.0]


def test_one_that_failed_for_one_of_the_two_is_shown_as_both() -> None:
    reports = heard(
        report_of(A, exchanges=(exchanged([B]),)),
        report_of(B, exchanges=(exchanged([A], "failed", reason="too slow"),)),
    )
    found = exchanges_in(reports, now_unix_s=NOW_UNIX_S)
    assert {(each.outcome, each.reason) for each in found} == {
        ("landed", ""),
        ("failed", "too slow"),
    }


def test_an_exchange_is_shown_for_a_minute_after_its_end() -> None:
    exchanges = (
        exchanged([B], ago_s=SHOWN_EXCHANGES_S + 2),
        exchanged([C], ago_s=SHOWN_EXCHANGES_S + 2, took_s=3.0),
    )
    (each,) = exchanges_in(heard(report_of(A, exchanges=exchanges)), now_unix_s=NOW_UNIX_S)
    assert each.partners == (C,)


def test_a_clock_that_is_an_hour_wrong_moves_no_exchange() -> None:
    wrong = report_of(
        A,
        at_unix_s=NOW_UNIX_S + 3600,
        exchanges=(exchanged([B], began_unix_s=NOW_UNIX_S + 3600 - 5),),
    )
    (each,) = exchanges_in(heard(wrong), now_unix_s=NOW_UNIX_S)
    assert each.began_unix_s == NOW_UNIX_S - 5


def test_nobody_can_put_an_exchange_into_the_future() -> None:
    late = exchanged([B], "failed", began_unix_s=NOW_UNIX_S + 1e9)
    long = exchanged([C], "failed", ago_s=5.0, took_s=1e9)
    found = exchanges_in(heard(report_of(A, exchanges=(late, long))), now_unix_s=NOW_UNIX_S)
    assert [each.began_unix_s + each.took_s for each in found] == [NOW_UNIX_S] * 2
    later = NOW_UNIX_S + SHOWN_EXCHANGES_S + 1
    assert exchanges_in(heard(report_of(A, exchanges=(late, long))), now_unix_s=later) == ()


# ---- the whole


def test_a_view_is_plain_data() -> None:
    report = report_of(
        A,
        contribution=used(10),
        waits=(Waiting(name="partners", whom="b"),),
        ties=(Tie(peer_id=B, way="direct"),),
        exchanges=(exchanged([B]),),
        notices=("x",),
    )
    view, _ = seen({A: card_of(), B: card_of("bootstrap")}, heard(report))
    data = json.loads(json.dumps(as_data(view), allow_nan=False))
    (peer, node) = data["peers"]
    assert peer["ties"] == [{"peer_id": B, "way": "direct", "round_trip_s": None}]
    assert peer["waits"] == [{"name": "partners", "whom": "b", "for_s": 0.0}]
    assert peer["contribution"]["used_tokens"] == 10
    assert node["role"] == "bootstrap"
    assert data["exchanges"][0]["partners"] == [B]
    assert data["method"] == "nesterov, all"


def test_domains_stand_as_the_cards_say() -> None:
    domains = [{"name": "law"}, {"name": "math", "method": {"preset": "noloco"}}]
    kept = Kept("math", 5, 2000, is_final=True)
    cards = {A: card_of(domain="law", step=100), B: card_of(kept=(kept,))}
    view, _ = seen(cards, domains=domains)
    assert [(each["domain"], each["state"]) for each in view.domains] == [
        ("law", "training"),
        ("math", "done"),
    ]
    assert view.method == "nesterov, all, noloco"


def test_an_empty_swarm_can_be_seen() -> None:
    view, _ = seen({})
    assert (view.num_training, view.round, view.tokens, view.peers) == (0, 0, 0, ())


# ---- how large


def test_parameters_are_those_of_all_models() -> None:
    one = count_parameters(manifest_of())
    assert one > 100_000
    assert count_parameters(manifest_of(domains=[{"name": "law"}, {"name": "math"}])) == 2 * one
    tensors = [{"name": "a", "shape": [3, 4]}, {"name": "b", "shape": []}]
    file = {"name": "initial.safetensors", "size_bytes": 1, "digest": "0" * 64}
    own = {"kind": "own", "tensors": tensors}
    assert count_parameters(manifest_of(model=own, files=[file])) == 13


def test_a_model_that_cannot_be_built_here_has_no_known_size() -> None:
    model = {"kind": "huggingface", "config": {"model_type": "there-is-no-such-model"}}
    assert count_parameters(manifest_of(model=model)) == 0
