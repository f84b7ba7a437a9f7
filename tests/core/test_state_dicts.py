"""Weights leave a layer in a form that other libraries can write."""

from __future__ import annotations

import pytest

from kan_core import layers


@pytest.mark.parametrize("name", layers.names())
def test_tensors_are_contiguous_and_share_no_memory(name):
    """safetensors refuses views and tensors that share their storage."""
    tensors = layers.get(name)(16, 16).state_dict()
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors.values()}) == len(tensors)
