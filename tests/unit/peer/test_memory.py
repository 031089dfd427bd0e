import gc

import pytest
import torch

from peer.memory import KEPT, SLACK, Vectors


def test_memory_is_used_again_once_nobody_holds_the_vector() -> None:
    vectors = Vectors()
    first = vectors.empty(1000)
    place = first.data_ptr()
    piece = first[10:20]
    del first
    gc.collect()
    other = vectors.empty(1000)
    assert other.data_ptr() != place  # the piece still lies there
    del piece
    gc.collect()
    assert vectors.empty(1000).data_ptr() == place


def test_a_numpy_view_keeps_the_memory() -> None:
    vectors = Vectors()
    vector = vectors.empty(1000)
    place, view = vector.data_ptr(), vector.numpy()
    del vector
    gc.collect()
    assert vectors.empty(1000).data_ptr() != place
    assert len(view) == 1000


@pytest.mark.parametrize(("num_elements", "fits"), [(1000, True), (900, True), (1001, False)])
def test_a_vector_lies_in_memory_of_about_its_size(num_elements: int, fits: bool) -> None:
    vectors = Vectors()
    place = vectors.empty(1000).data_ptr()
    gc.collect()
    again = vectors.empty(num_elements)
    assert (again.data_ptr() == place) == fits
    assert (again.shape, again.dtype) == ((num_elements,), torch.float32)
    small = vectors.empty(int(500 / SLACK))
    assert small.data_ptr() != place


def test_few_buffers_are_kept() -> None:
    vectors = Vectors()
    many = [vectors.empty(100) for _ in range(KEPT + 3)]
    places = {vector.data_ptr() for vector in many}
    del many
    gc.collect()
    assert len(vectors._free) == KEPT
    assert {int(buffer.ctypes.data) for buffer in vectors._free} < places
