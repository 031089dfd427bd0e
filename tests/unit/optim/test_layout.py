import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from optim.layout import Layout, flatten_into, layout_of, load_from, shapes_of

SHAPES = st.lists(st.lists(st.integers(1, 5), max_size=3).map(tuple), min_size=1, max_size=12)


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2, bias=False))


def flat_of(module: nn.Module, layout: Layout) -> torch.Tensor:
    flat = torch.full((layout.num_elements,), float("nan"))
    flatten_into(flat, layout, module)
    return flat


@given(shapes=SHAPES, data=st.data())
def test_each_element_is_in_exactly_one_fragment_and_one_tensor(
    shapes: list[tuple[int, ...]], data: st.DataObject
) -> None:
    P = data.draw(st.integers(1, len(shapes)))
    layout = layout_of({f"t{i}": s for i, s in enumerate(shapes)}, num_fragments=P)
    every = list(range(layout.num_elements))
    assert len(layout.fragments) == P
    assert [i for f in layout.fragments for i in f] == every
    assert [i for e in layout.entries for i in range(e.start, e.stop)] == every
    parts = [list(layout.entries_of(p)) for p in range(P)]
    assert all(parts)
    assert [e for part in parts for e in part] == list(layout.entries)


def test_fragments_are_of_about_equal_size() -> None:
    layout = layout_of({f"block{i}": (100,) for i in range(24)}, num_fragments=8)
    assert [len(f) for f in layout.fragments] == [300] * 8
    # Never more than the largest tensor away from the ideal.
    layout = layout_of({"embedding": (50,), "a": (10,), "b": (20,), "c": (20,)}, num_fragments=2)
    assert layout.fragments == (range(50), range(50, 100))


def test_a_giant_tensor_leaves_each_other_fragment_one_tensor() -> None:
    layout = layout_of({"a": (1,), "b": (1,), "giant": (1000,)}, num_fragments=3)
    assert [len(f) for f in layout.fragments] == [1, 1, 1000]
    layout = layout_of({"giant": (1000,), "a": (1,), "b": (1,)}, num_fragments=3)
    assert [len(f) for f in layout.fragments] == [1000, 1, 1]


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


def test_a_fragment_alone_is_copied() -> None:
    model = small_model()
    layout = layout_of(shapes_of(model), num_fragments=3)
    before = flat_of(model, layout)
    middle = layout.fragments[1]
    outside = [i for i in range(layout.num_elements) if i not in middle]

    load_from(torch.zeros(layout.num_elements), layout, model, fragment=1)
    after = flat_of(model, layout)
    assert not after[middle.start : middle.stop].any()
    assert torch.equal(after[outside], before[outside])

    out = torch.full((layout.num_elements,), -1.0)
    flatten_into(out, layout, model, fragment=1)
    assert not out[middle.start : middle.stop].any()
    assert (out[outside] == -1.0).all()


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


def test_tied_parameters_appear_once_and_stay_tied() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    layout = layout_of(shapes_of(model))
    assert [e.name for e in layout.entries] == ["embed.weight"]
    load_from(torch.full((15,), 7.0), layout, model)
    assert model["head"].weight is model["embed"].weight
    assert (model["head"].weight == 7.0).all()


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
