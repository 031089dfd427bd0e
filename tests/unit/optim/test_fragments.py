from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from optim.fragments import assign_fragments, block_of
from optim.layout import shapes_of

PART = st.sampled_from(["blocks", "attn", "weight", "norm", "0", "1", "7", "12"])
NAMES = st.lists(PART, min_size=1, max_size=4).map(".".join)
SIZES = st.dictionaries(NAMES, st.integers(1, 50), min_size=1, max_size=14)


def transformer(num_blocks: int) -> dict[str, int]:
    """Return the sizes of a decoder: embedding, blocks of three tensors, final norm, head."""
    sizes = {"embedding.weight": 1000}
    for block in range(num_blocks):
        for part in ("attn.qkv", "ffn.up", "ffn.down"):
            sizes[f"model.layers.{block}.{part}.weight"] = 10
    return sizes | {"norm.weight": 5, "head.weight": 1000}


def fragments_of_blocks(assigned: dict[str, int]) -> list[int]:
    """Return the fragment of each block, which must be one only, in the model's order."""
    pairs = dict.fromkeys((block_of(n), f) for n, f in assigned.items() if block_of(n))
    assert len(pairs) == len({block for block, _ in pairs}), "a block is in two fragments"
    return [fragment for _, fragment in pairs]


@given(
    sizes=SIZES,
    pattern=st.sampled_from(["balanced", "sequential", "strided"]),
    separate=st.booleans(),
    P=st.integers(1, 6),
)
def test_every_tensor_gets_one_fragment_and_every_fragment_a_tensor(
    sizes: dict[str, int], pattern: str, separate: bool, P: int
) -> None:
    inside = {n for n in sizes if block_of(n)}
    units = len({block_of(n) for n in inside}) if pattern != "balanced" else len(sizes)
    if separate:
        units = (len(inside) if pattern == "balanced" else units) + 1
    is_possible = 1 + separate <= P <= units and (not separate or 0 < len(inside) < len(sizes))

    def assign() -> dict[str, int]:
        return assign_fragments(
            sizes, num_fragments=P, pattern=pattern, separate_embeddings=separate
        )

    if not is_possible:
        with pytest.raises(ValueError, match=r"num_fragments must be|needs blocks|needs tensors"):
            assign()
        return
    assigned = assign()
    assert list(assigned) == list(sizes)
    assert set(assigned.values()) == set(range(P))
    if pattern != "balanced":
        fragments_of_blocks(assigned)


def test_strided_is_the_papers_formula_for_24_layers_in_8_fragments() -> None:
    assigned = assign_fragments(transformer(24), num_fragments=8, pattern="strided")
    for layer in range(24):
        assert assigned[f"model.layers.{layer}.attn.qkv.weight"] == layer % 8
    assert fragments_of_blocks(assigned) == [layer % 8 for layer in range(24)]


def test_sequential_fragments_are_runs_of_equally_many_blocks() -> None:
    assigned = assign_fragments(transformer(24), num_fragments=8, pattern="sequential")
    assert fragments_of_blocks(assigned) == [layer // 3 for layer in range(24)]


@given(st.integers(1, 40), st.data())
def test_sequential_runs_that_do_not_divide_differ_by_one_block(
    num_blocks: int, data: st.DataObject
) -> None:
    P = data.draw(st.integers(1, num_blocks))
    assigned = assign_fragments(transformer(num_blocks), num_fragments=P, pattern="sequential")
    fragments = fragments_of_blocks(assigned)
    assert fragments == sorted(fragments)
    counts = [fragments.count(p) for p in range(P)]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("pattern", ["sequential", "strided"])
def test_what_lies_outside_of_blocks_goes_with_its_neighbour(pattern: str) -> None:
    assigned = assign_fragments(transformer(3), num_fragments=3, pattern=pattern)
    outside = {name: p for name, p in assigned.items() if block_of(name) is None}
    assert outside == {"embedding.weight": 0, "norm.weight": 2, "head.weight": 2}
    encoder_decoder = ["pos", "enc.0.w", "enc.1.w", "enc_norm", "dec.0.w", "dec.1.w", "dec_norm"]
    assigned = assign_fragments(dict.fromkeys(encoder_decoder, 1), num_fragments=4, pattern=pattern)
    assert list(assigned.values()) == [0, 0, 1, 1, 2, 3, 3]


@pytest.mark.parametrize("pattern", ["balanced", "sequential", "strided"])
def test_separate_embeddings_are_the_last_fragment(pattern: str) -> None:
    assigned = assign_fragments(
        transformer(24), num_fragments=9, pattern=pattern, separate_embeddings=True
    )
    last = [name for name, fragment in assigned.items() if fragment == 8]
    assert last == ["embedding.weight", "norm.weight", "head.weight"]
    blocks = {name: size for name, size in transformer(24).items() if name not in last}
    alone = assign_fragments(blocks, num_fragments=8, pattern=pattern)
    assert {name: p for name, p in assigned.items() if p < 8} == alone


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("blocks.3.ffn.up.weight", "blocks.3"),
        ("model.layers.11.mlp.gate.weight", "model.layers.11"),
        ("h.0.attn", "h.0"),
        ("layers.2.experts.7.weight", "layers.2"),
        ("0.weight", "0"),
        ("scales.4", "scales.4"),
        ("layer1.0.conv1.weight", "layer1.0"),
        ("norm1.weight", None),
        ("embedding.weight", None),
        ("parametrizations.weight.original0", None),
    ],
)
def test_a_block_is_the_name_up_to_its_first_number(name: str, block: str | None) -> None:
    assert block_of(name) == block


def test_blocks_are_counted_in_the_models_order_not_by_their_number() -> None:
    # Of a model whose first layers are frozen, the trainable blocks are dealt out.
    sizes = {f"h.{layer}.w": 1 for layer in (10, 11, 12, 13)}
    assigned = assign_fragments(sizes, num_fragments=2, pattern="strided")
    assert list(assigned.values()) == [0, 1, 0, 1]


def test_blocks_of_real_modules_are_recognised() -> None:
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 6, enable_nested_tensor=False
    )
    nets = {
        "encoder": (encoder, 6),
        "convolutions": (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.BatchNorm2d(2)), 2),
        "list": (nn.ParameterList([nn.Linear(2, 2).weight for _ in range(5)]), 5),
    }
    for net, num_blocks in nets.values():
        sizes = dict.fromkeys(shapes_of(net), 1)
        assigned = assign_fragments(sizes, num_fragments=num_blocks, pattern="strided")
        assert fragments_of_blocks(assigned) == list(range(num_blocks))


def cuts_of(fragments: list[int], sizes: list[int]) -> tuple[int, int]:
    """Return the peak and the sum of squares, the two things that "balanced" minimises."""
    lengths = [
        sum(s for s, f in zip(sizes, fragments, strict=True) if f == p) for p in set(fragments)
    ]
    return max(lengths), sum(length**2 for length in lengths)


@given(st.lists(st.sampled_from([1, 2, 3, 5, 8, 40, 300]), min_size=1, max_size=9), st.data())
def test_balanced_has_the_smallest_peak_and_then_the_least_squares(
    sizes: list[int], data: st.DataObject
) -> None:
    P = data.draw(st.integers(1, len(sizes)))
    assigned = assign_fragments({f"t{i}": s for i, s in enumerate(sizes)}, num_fragments=P)
    fragments = list(assigned.values())
    assert all(b - a in (0, 1) for a, b in pairwise(fragments)), "not runs"
    every_cut = (
        [sum(cut <= i for cut in cuts) for i in range(len(sizes))]
        for cuts in combinations(range(1, len(sizes)), P - 1)
    )
    assert cuts_of(fragments, sizes) == min(cuts_of(cut, sizes) for cut in every_cut)


def test_balanced_prefers_the_smaller_peak_to_the_least_squares() -> None:
    # 1 | 6 | 2 + 4 has peak 6 and squares 73; 1 + 6 | 2 | 4 has peak 7 and squares 69.
    assigned = assign_fragments({"a": 1, "b": 6, "c": 2, "d": 4}, num_fragments=3)
    assert list(assigned.values()) == [0, 1, 2, 2]


def test_balanced_divides_what_two_giants_leave() -> None:
    sizes = {"embedding": 1000, **{f"t{i}": 10 for i in range(30)}, "head": 1000}
    assigned = assign_fragments(sizes, num_fragments=5)
    assert [list(assigned.values()).count(p) for p in range(5)] == [1, 10, 10, 10, 1]


def test_balanced_is_exact_beside_a_giant() -> None:
    # The giant's square alone exceeds the 53 bits of a float; the others' would drown in it.
    sizes = {"giant": 10**12} | dict.fromkeys("abcd", 10)
    assert list(assign_fragments(sizes, num_fragments=3).values()) == [0, 1, 1, 2, 2]


def test_tensors_without_elements_go_along_but_make_no_fragment() -> None:
    assigned = assign_fragments({"a": 0, "b": 3, "c": 0, "d": 3, "e": 0}, num_fragments=2)
    assert assigned["b"] != assigned["d"]
    assert set(assigned.values()) == {0, 1}
    with pytest.raises(ValueError, match="has no elements"):
        assign_fragments({"a": 1, "b": 0, "c": 0}, num_fragments=2)
    with pytest.raises(ValueError, match=r"fragment 1, with h\.1\.w, has no elements"):
        assign_fragments({"h.0.w": 1, "h.1.w": 0}, num_fragments=2, pattern="strided")


def test_equal_mappings_give_equal_fragments_and_stay_untouched() -> None:
    sizes = transformer(5)
    for pattern in ("balanced", "sequential", "strided"):
        first = assign_fragments(sizes, num_fragments=4, pattern=pattern)
        assert first == assign_fragments(dict(sizes), num_fragments=4, pattern=pattern)
    assert sizes == transformer(5)


@pytest.mark.parametrize(
    ("num_fragments", "pattern", "separate", "sentence"),
    [
        (0, "balanced", False, r"between 1 and the number of tensors \(9\), not 0"),
        (10, "balanced", False, r"between 1 and the number of tensors \(9\), not 10"),
        (3, "strided", False, r"between 1 and the number of blocks \(2\), not 3"),
        (1, "strided", True, r"between 2 and the number of blocks plus the .* own \(3\), not 1"),
        (4, "sequential", True, r"between 2 and the number of blocks plus .* \(3\), not 4"),
        (8, "balanced", True, r"between 2 and the number of tensors plus .* \(7\), not 8"),
        (2, "random", False, "no pattern 'random'; choose one of balanced, sequential, strided"),
    ],
)
def test_impossible_wishes_are_refused(
    num_fragments: int, pattern: str, separate: bool, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        assign_fragments(
            transformer(2),
            num_fragments=num_fragments,
            pattern=pattern,
            separate_embeddings=separate,
        )


@pytest.mark.parametrize("pattern", ["sequential", "strided"])
def test_a_model_without_blocks_is_pointed_to_balanced(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"needs blocks.*use pattern 'balanced'"):
        assign_fragments({"up.weight": 4, "down.weight": 4}, num_fragments=2, pattern=pattern)


@pytest.mark.parametrize("names", [["up", "down"], ["h.0.w", "h.1.w"]], ids=["outside", "inside"])
def test_embeddings_cannot_be_separated_from_nothing(names: list[str]) -> None:
    with pytest.raises(ValueError, match="needs tensors inside of blocks"):
        assign_fragments(dict.fromkeys(names, 1), num_fragments=2, separate_embeddings=True)
