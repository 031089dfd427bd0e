import pytest
import torch

from peer.domains.branching import branched_anchors
from peer.domains.kept import DomainState, FragmentState
from peer.domains.sizes import DomainSizes
from peer.method import mixing_of
from peer.train.model import initial_anchor, layout_of_run
from protocol.domains import domain_manifest
from protocol.identity import PeerId
from protocol.lineage import EMPTY
from tests.unit.peer.domains.small_run import METHODS, RUN


@pytest.mark.parametrize("domain", METHODS)
def test_the_sizes_of_a_domain_are_those_of_whoever_trains_there(domain: str) -> None:
    child = domain_manifest(RUN, domain)
    sizes, mixing = DomainSizes(child), mixing_of(child, PeerId("we"))
    assert sizes.is_common == mixing.is_common
    for fragment in range(len(mixing.outer)):
        assert sizes.state_lengths(fragment) == mixing.state_lengths(fragment)
        assert sizes.state_bytes(fragment) == mixing.state_bytes(fragment)
        assert sizes.round_of(fragment) < mixing.round_of(fragment)


@pytest.mark.parametrize("ours", ["law", "math"])
@pytest.mark.parametrize("theirs", ["law", "math"])
def test_a_branch_begins_at_its_seeds_parameters_however_both_are_cut(
    theirs: str, ours: str
) -> None:
    """A model's first anchor is drawn by name, so it is the same however it is cut."""
    seed, child = domain_manifest(RUN, theirs), domain_manifest(RUN, ours)
    their_layout, layout = layout_of_run(seed), layout_of_run(child)
    anchor = initial_anchor(seed)
    fragments = [
        FragmentState(3, b"", EMPTY, [anchor[span.start : span.stop].clone()])
        for span in their_layout.fragments
    ]
    branched = branched_anchors(DomainState(60, True, fragments), their_layout, layout)
    assert [len(each) for each in branched] == [len(span) for span in layout.fragments]
    assert torch.equal(torch.cat(branched), initial_anchor(child))
    branched[0].zero_()
    assert all(bool(f.vectors[0].any()) for f in fragments), "the seed is as it was"
