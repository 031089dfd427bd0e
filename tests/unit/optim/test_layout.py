import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from optim.landing import rebase
from optim.layout import Layout, flatten_into, layout_of, load_from, shapes_of

SHAPES = st.lists(st.lists(st.integers(1, 5), max_size=3).map(tuple), min_size=1, max_size=12)
PATTERNS = ["balanced", "sequential", "strided"]


class Decoder(nn.Module):
    """A transformer's names and shapes, without its arithmetic; the head is tied if wanted."""

    def __init__(self, num_blocks: int, *, is_tied: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(11, 4)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"attn": nn.Linear(4, 4), "ffn": nn.Linear(4, 4)})
            for _ in range(num_blocks)
        )
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 11, bias=False)
        if is_tied:
            self.head.weight = self.embedding.weight


class Oddities(nn.Module):
    """Parameters of every kind that a module may have."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.temperature = nn.Parameter(torch.tensor(2.5))
        self.conv = nn.Parameter(torch.randn(3, 2, 3, 3).to(memory_format=torch.channels_last))
        self.scales = nn.ParameterList(torch.randn(n) for n in (3, 1, 2))
        self.empty = nn.Parameter(torch.zeros(0, 4))
        self.narrow = nn.Parameter(torch.randn(5, dtype=torch.bfloat16))
        self.transposed = nn.Parameter(torch.randn(3, 4).t())
        self.sliced = nn.Parameter(torch.randn(6, 2)[::2, 0])
        self.named = nn.ParameterDict({"a": torch.randn(2, 1, 2)})


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2, bias=False))


def flat_of(module: nn.Module, layout: Layout) -> torch.Tensor:
    flat = torch.full((layout.num_elements,), float("nan"))
    flatten_into(flat, layout, module)
    return flat


@given(shapes=SHAPES, data=st.data(), pattern=st.sampled_from(PATTERNS), separate=st.booleans())
def test_each_element_is_in_exactly_one_fragment_and_one_tensor(
    shapes: list[tuple[int, ...]], data: st.DataObject, pattern: str, separate: bool
) -> None:
    # Two tensors a block, between an embedding and a head.
    named = {f"h.{i // 2}.t{i}": s for i, s in enumerate(shapes)}
    named = {"embedding": (3, 2), **named, "head": (2, 3)}
    num_blocks = (len(shapes) + 1) // 2 + separate
    P = data.draw(st.integers(1 + separate, num_blocks))
    layout = layout_of(named, num_fragments=P, pattern=pattern, separate_embeddings=separate)
    every = list(range(layout.num_elements))
    assert len(layout.fragments) == P
    assert [i for f in layout.fragments for i in f] == every
    assert [i for e in layout.entries for i in range(e.start, e.stop)] == every
    assert {e.name: e.shape for e in layout.entries} == named
    parts = [list(layout.entries_of(p)) for p in range(P)]
    assert [e for part in parts for e in part] == list(layout.entries_of(None))
    for part, span in zip(parts, layout.fragments, strict=True):
        assert (part[0].start, part[-1].stop) == (span.start, span.stop)
        names = [e.name for e in part]
        assert names == [name for name in named if name in names], "not in the model's order"


def test_fragments_are_of_about_equal_size() -> None:
    layout = layout_of({f"block{i}": (100,) for i in range(24)}, num_fragments=8)
    assert [len(f) for f in layout.fragments] == [300] * 8
    layout = layout_of({"embedding": (50,), "a": (10,), "b": (20,), "c": (20,)}, num_fragments=2)
    assert layout.fragments == (range(50), range(50, 100))


def test_strided_brings_the_blocks_of_a_fragment_together() -> None:
    shapes = {"embedding": (5,), "h.0": (1,), "h.1": (2,), "h.2": (3,), "h.3": (4,), "head": (6,)}
    layout = layout_of(shapes, num_fragments=2, pattern="strided")
    assert [e.name for e in layout.entries] == ["embedding", "h.0", "h.2", "h.1", "h.3", "head"]
    assert layout.fragments == (range(9), range(9, 21))
    layout = layout_of(shapes, num_fragments=3, pattern="strided", separate_embeddings=True)
    assert [e.name for e in layout.entries] == ["h.0", "h.2", "h.1", "h.3", "embedding", "head"]
    assert layout.fragments == (range(4), range(4, 10), range(10, 21))


def test_balanced_keeps_the_models_order_whatever_the_number_of_fragments() -> None:
    shapes = shapes_of(Decoder(4))
    places = {
        tuple((e.name, e.start) for e in layout_of(shapes, num_fragments=P).entries)
        for P in range(1, 8)
    }
    assert len(places) == 1


def test_a_layout_depends_on_names_shapes_and_order_only() -> None:
    shapes = shapes_of(Decoder(6))
    for pattern in PATTERNS:
        layout = layout_of(shapes, num_fragments=3, pattern=pattern)
        assert layout_of(dict(shapes), num_fragments=3, pattern=pattern) == layout
        with torch.device("meta"):
            weightless = shapes_of(Decoder(6))
        assert layout_of(weightless, num_fragments=3, pattern=pattern) == layout
    backwards = dict(reversed(shapes.items()))
    assert layout_of(backwards, num_fragments=3) != layout_of(shapes, num_fragments=3)


@pytest.mark.parametrize("num_fragments", [-1, 0, 4])
def test_an_impossible_number_of_fragments_is_refused(num_fragments: int) -> None:
    with pytest.raises(ValueError, match="num_fragments must be between 1 and"):
        layout_of({"a": (1,), "b": (2,), "c": ()}, num_fragments=num_fragments)


def test_no_tensors_make_no_layout() -> None:
    with pytest.raises(ValueError, match="number of tensors"):
        layout_of({})


def test_flatten_and_load_are_inverse() -> None:
    model = small_model()
    layout = layout_of(shapes_of(model))
    flat = flat_of(model, layout)
    assert torch.equal(flat, nn.utils.parameters_to_vector(model.parameters()))
    load_from(flat * 2, layout, model)
    assert torch.equal(flat_of(model, layout), flat * 2)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("separate", [False, True])
def test_a_fragment_alone_touches_no_other_element(pattern: str, separate: bool) -> None:
    model = Decoder(5)
    layout = layout_of(
        shapes_of(model), num_fragments=3, pattern=pattern, separate_embeddings=separate
    )
    for fragment, span in enumerate(layout.fragments):
        before = flat_of(model, layout)
        others = [i for i in range(layout.num_elements) if i not in span]

        out = torch.full((layout.num_elements,), float("nan"))
        flatten_into(out, layout, model, fragment)
        assert torch.equal(out[span.start : span.stop], before[span.start : span.stop])
        assert out[others].isnan().all()

        load_from(torch.full((layout.num_elements,), 7.0), layout, model, fragment)
        after = flat_of(model, layout)
        assert (after[span.start : span.stop] == 7.0).all()
        assert torch.equal(after[others], before[others])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_fragment_by_fragment_is_the_same_as_at_once(pattern: str) -> None:
    model, other = Decoder(5), Decoder(5)
    layout = layout_of(shapes_of(model), num_fragments=4, pattern=pattern)
    flat = torch.full((layout.num_elements,), float("nan"))
    for fragment in range(4):
        flatten_into(flat, layout, model, fragment)
    assert torch.equal(flat, flat_of(model, layout))
    flat = torch.arange(layout.num_elements, dtype=torch.float32)
    for fragment in (2, 0, 3, 1):
        load_from(flat, layout, model, fragment)
    load_from(flat, layout, other)
    for param, same in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(param, same)


@pytest.mark.parametrize("fragment", [-1, 3])
def test_a_fragment_that_does_not_exist_is_refused(fragment: int) -> None:
    model = small_model()
    layout = layout_of(shapes_of(model), num_fragments=3)
    with pytest.raises(ValueError, match=rf"no fragment {fragment}: the layout has 3"):
        flatten_into(torch.zeros(layout.num_elements), layout, model, fragment)


def test_parameters_never_alias_the_flat_vector() -> None:
    model = small_model()
    layout = layout_of(shapes_of(model))
    storages = [p.data_ptr() for p in model.parameters()]
    flat = torch.arange(layout.num_elements, dtype=torch.float32)
    load_from(flat, layout, model)
    loaded = [p.detach().clone() for p in model.parameters()]
    flat.zero_()  # torch.nn.utils.vector_to_parameters would zero the model here
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), loaded, strict=True))
    assert [p.data_ptr() for p in model.parameters()] == storages

    out = flat_of(model, layout)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert torch.equal(out, torch.arange(layout.num_elements, dtype=torch.float32))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_tied_parameters_have_one_owner_and_stay_tied(pattern: str) -> None:
    model = Decoder(4, is_tied=True)
    layout = layout_of(shapes_of(model), num_fragments=2, pattern=pattern)
    owners = [e for e in layout.entries if e.shape == (11, 4)]
    assert [e.name for e in owners] == ["embedding.weight"]
    assert layout.num_elements == sum(p.numel() for p in model.parameters())
    flat = flat_of(model, layout)
    load_from(flat * 2, layout, model, owners[0].fragment)
    assert model.head.weight is model.embedding.weight
    expected = flat[owners[0].start : owners[0].stop].view(11, 4) * 2
    assert torch.equal(model.head.weight, expected)


def test_frozen_parameters_are_left_out_and_untouched() -> None:
    model = small_model()
    frozen = model.get_parameter("0.weight").requires_grad_(False)
    before = frozen.clone()
    layout = layout_of(shapes_of(model))
    assert "0.weight" not in {e.name for e in layout.entries}
    load_from(torch.zeros(layout.num_elements), layout, model)
    assert torch.equal(frozen, before)


def test_parameters_keep_their_dtype_and_strides() -> None:
    model = nn.Linear(3, 4).to(torch.bfloat16)
    model.weight = nn.Parameter(torch.randn(3, 4, dtype=torch.bfloat16).t())  # not contiguous
    layout = layout_of(shapes_of(model))
    flat = flat_of(model, layout)
    assert flat.dtype == torch.float32
    assert torch.equal(flat[:12].view(4, 3), model.weight.float())
    load_from(flat, layout, model)
    assert torch.equal(flat_of(model, layout), flat)
    assert model.weight.dtype == torch.bfloat16
    assert not model.weight.is_contiguous()


def test_parameters_of_every_kind_come_back_as_they_were() -> None:
    model = Oddities()
    layout = layout_of(shapes_of(model), num_fragments=4)
    assert layout.num_elements == sum(p.numel() for p in model.parameters())
    kept = {name: (p.detach().clone(), p.stride()) for name, p in model.named_parameters()}
    flat = flat_of(model, layout)
    for entry in layout.entries:
        part = flat[entry.start : entry.stop].view(entry.shape)
        assert torch.equal(part, kept[entry.name][0].float()), entry.name
    with torch.no_grad():
        for param in model.parameters():
            param.zero_()
    load_from(flat, layout, model)
    for name, param in model.named_parameters():
        assert torch.equal(param, kept[name][0]), name
        assert (param.dtype, param.stride()) == (kept[name][0].dtype, kept[name][1]), name


def test_a_tensor_without_elements_is_in_one_fragment() -> None:
    layout = layout_of({"a": (2,), "empty": (0, 3), "b": (2,)}, num_fragments=2)
    owners = [p for p in range(2) for e in layout.entries_of(p) if e.name == "empty"]
    assert len(owners) == 1


def test_fp64_parameters_lose_what_fp32_cannot_hold() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(1 + 2**-40)
    layout = layout_of(shapes_of(model))
    load_from(flat_of(model, layout), layout, model)
    assert model.weight.dtype == torch.float64
    assert model.weight.item() == 1.0


def test_complex_parameters_are_refused_unless_frozen() -> None:
    model = nn.Module()
    model.phases = nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    model.scale = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=r"phases is torch\.complex64.*view_as_complex"):
        shapes_of(model)
    model.phases.requires_grad_(False)
    assert shapes_of(model) == {"scale": (2,)}


def test_buffers_stay_each_replicas_own() -> None:
    torch.manual_seed(0)
    replicas = [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2)]
    for replica in replicas:
        replica(torch.randn(8, 3))
    layout = layout_of(shapes_of(replicas[0]), num_fragments=2)
    assert [e.name for e in layout.entries] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    kept = [{name: b.clone() for name, b in r.named_buffers()} for r in replicas]
    assert not torch.equal(kept[0]["1.running_mean"], kept[1]["1.running_mean"])

    anchor = torch.randn(layout.num_elements)
    for replica in replicas:  # land as a peer does, fragment by fragment
        for fragment, span in enumerate(layout.fragments):
            part = slice(span.start, span.stop)
            theta, base = flat_of(replica, layout), flat_of(replica, layout)
            rebase(theta[part], anchor[part], base[part])
            load_from(theta, layout, replica, fragment)
    assert torch.equal(flat_of(replicas[0], layout), flat_of(replicas[1], layout))
    for replica, buffers in zip(replicas, kept, strict=True):
        for name, buffer in replica.named_buffers():
            assert torch.equal(buffer, buffers[name]), name


def test_an_anchors_statistics_are_estimated_anew() -> None:
    # What the docstring of optim.layout tells users of BatchNorm to do.
    torch.manual_seed(0)
    batches = [torch.randn(16, 3) for _ in range(4)]
    replicas = [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2)]
    replicas[0](batches[0] * 100)
    layout = layout_of(shapes_of(replicas[0]))
    anchor = torch.randn(layout.num_elements)
    outputs = []
    for replica in replicas:
        load_from(anchor, layout, replica)
        torch.optim.swa_utils.update_bn(batches, replica)
        outputs.append(replica.eval()(batches[0]))
    assert torch.equal(outputs[0], outputs[1])
    hidden = replicas[0][0](torch.cat(batches))
    torch.testing.assert_close(replicas[0].get_buffer("1.running_mean"), hidden.mean(0))


def test_loading_leaves_no_gradient_history() -> None:
    model = small_model()
    layout = layout_of(shapes_of(model))
    load_from(torch.zeros(layout.num_elements), layout, model)
    assert all(p.is_leaf and p.requires_grad and p.grad is None for p in model.parameters())


def test_a_model_of_another_shape_is_refused_and_untouched() -> None:
    layout = layout_of(shapes_of(small_model()))
    other = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 3, bias=False))
    before = [p.detach().clone() for p in other.parameters()]
    with pytest.raises(ValueError, match=r"2\.weight"):
        load_from(torch.zeros(layout.num_elements), layout, other)
    assert all(torch.equal(p, q) for p, q in zip(other.parameters(), before, strict=True))
    with pytest.raises(ValueError, match="no such parameter"):
        load_from(torch.zeros(layout.num_elements), layout, nn.Linear(3, 4))


@pytest.mark.parametrize("flat", [torch.zeros(3), torch.zeros(32, dtype=torch.float64)])
def test_a_vector_that_does_not_fit_is_refused(flat: torch.Tensor) -> None:
    model = small_model()
    layout = layout_of(shapes_of(model))
    assert layout.num_elements == 32
    with pytest.raises(ValueError, match="flat vector must be"):
        flatten_into(flat, layout, model)
