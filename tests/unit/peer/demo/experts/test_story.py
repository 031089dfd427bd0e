from peer.demo.experts import story
from peer.demo.experts.play import Play
from protocol.manifest import Manifest


def test_what_is_waited_for_after_the_death(play: Play) -> None:
    del play.peers["peer-4"]
    now, coming = story.now_and_coming(play, elapsed_s=29.5)
    assert now == "manual has nobody, but the others keep a copy of step 80"
    assert (
        coming
        == "peer-2's card expires in about 20 s; then a peer that can be spared goes to manual"
    )
    assert "peer-2's card has expired" in story.now_and_coming(play, elapsed_s=60.0)[1]


def test_what_happens_in_the_end(play: Play) -> None:
    assert "every domain is done" in story.now_and_coming(play, elapsed_s=60.0)[0]


def test_before_anybody_is_there(manifest: Manifest) -> None:
    now, coming = story.now_and_coming(Play(1000.0, manifest), elapsed_s=1.0)
    assert now == "each domain trains by itself; experts need not talk to each other"
    assert "40%" in coming


def test_the_news(play: Play) -> None:
    told = [
        story.news_of(play, name, event)[0]
        for name, view in play.peers.items()
        for event in view.news
    ]
    assert [sentence for sentence in told if sentence] == [
        "peer-1 chose python",
        "python has reached its budget of 200 steps",
        "peer-2 chose manual",
        "peer-3 chose cpp",
        "cpp has reached its budget of 200 steps",
        "peer-4 chose cpp",
        "peer-4 leaves cpp for manual, which has nobody",
        "peer-4 takes manual over, from step 80",
        "manual has reached its budget of 200 steps",
    ]


def test_the_division(manifest: Manifest) -> None:
    assert story.division_of(manifest).startswith("python 200 of ")
